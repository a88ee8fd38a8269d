/* SPDX-License-Identifier: MIT */
/* millrace._core: sessions, the worker, the module; see core.h. */
#include "core.h"

static PyTypeObject session_type;

/* ---- sessions ---------------------------------------------------------- */

static struct mr_session *
session_of(PyObject *self)
{
	session_object *s = (session_object *)self;

	if (s->handle == NULL || s->worker->handle == NULL) {
		PyErr_SetString(PyExc_ValueError, "the stream is over");
		return NULL;
	}
	return s->handle;
}

static PyObject *
session_event(PyObject *self, PyObject *args)
{
	struct mr_session *s = session_of(self);
	const char *text;

	if (s == NULL || !PyArg_ParseTuple(args, "s", &text))
		return NULL;
	return none_or_fail(mr_event(s, text));
}

static PyObject *
session_data(PyObject *self, PyObject *args)
{
	struct mr_session *s = session_of(self);
	const char *text;

	if (s == NULL || !PyArg_ParseTuple(args, "s", &text))
		return NULL;
	return none_or_fail(mr_data(s, text));
}

static PyObject *
session_overlay(PyObject *self, PyObject *args)
{
	struct mr_session *s = session_of(self);
	const char *text = NULL;
	int on, progress = -1;

	if (s == NULL || !PyArg_ParseTuple(args, "p|iz", &on, &progress, &text))
		return NULL;
	return none_or_fail(mr_overlay(s, on, progress, text));
}

static PyObject *
session_resize(PyObject *self, PyObject *args)
{
	struct mr_session *s = session_of(self);
	unsigned width, height;

	if (s == NULL || !PyArg_ParseTuple(args, "II", &width, &height))
		return NULL;
	return none_or_fail(mr_output_resize(s, width, height));
}

static PyObject *
session_params_result(PyObject *self, PyObject *args)
{
	struct mr_session *s = session_of(self);
	const char *text = NULL;
	int status;

	if (s == NULL || !PyArg_ParseTuple(args, "i|z", &status, &text))
		return NULL;
	return none_or_fail(mr_params_result(s, status, text));
}

static void
session_dealloc(PyObject *self)
{
	session_object *s = (session_object *)self;

	Py_DECREF(s->worker);
	PyObject_Free(s);
}

static PyMethodDef session_methods[] = {
	{ "event", session_event, METH_VARARGS, "event(json): publishes an event" },
	{ "data", session_data, METH_VARARGS, "data(text): publishes a line on the data channel" },
	{ "overlay", session_overlay, METH_VARARGS, "overlay(on, progress=-1, text=None): the slate" },
	{ "resize", session_resize, METH_VARARGS, "resize(width, height): of the results" },
	{ "params_result", session_params_result, METH_VARARGS, "params_result(status, text=None)" },
	{ 0 },
};

static PyMemberDef session_members[] = {
	{ "id", T_UINT, offsetof(session_object, id), READONLY, "number of the session, as in logs" },
	{ 0 },
};

static PyTypeObject session_type = {
	PyVarObject_HEAD_INIT(NULL, 0)
	.tp_name = "millrace._core.Session",
	.tp_doc = "One stream.",
	.tp_basicsize = sizeof(session_object),
	.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.tp_dealloc = session_dealloc,
	.tp_methods = session_methods,
	.tp_members = session_members,
};

/* ---- the worker -------------------------------------------------------- */

static int
worker_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static const char *const names[] = { "name", "format", "capacity", "hold_count", "audio", NULL };
	worker_object *w = (worker_object *)self;
	struct mr_worker_config config;
	int audio = 0, r;

	mr_worker_config_init(&config, sizeof(config));
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|zIIIp", (char **)(uintptr_t)names, &config.name, &config.format,
		&config.capacity, &config.hold_count, &audio))
		return -1;
	if (w->handle != NULL) {
		PyErr_SetString(PyExc_ValueError, "the worker is open already");
		return -1;
	}
	config.audio = audio != 0;
	Py_BEGIN_ALLOW_THREADS
	r = mr_open(&config, &w->handle);
	Py_END_ALLOW_THREADS
	if (r < 0) {
		w->handle = NULL;
		fail(r);
		return -1;
	}
	return 0;
}

static PyObject *
worker_close(PyObject *self, PyObject *unused)
{
	worker_object *w = (worker_object *)self;

	mr_py_release_asked(w);
	if (w->handle != NULL && w->views == 0)
		mr_close(&w->handle);
	w->handle = NULL; /* with views left the memory stays mapped: the process ends soon */
	mr_py_release_asked(w);
	Py_RETURN_NONE;
}

static void
worker_dealloc(PyObject *self)
{
	Py_DECREF(worker_close(self, NULL));
	Py_TYPE(self)->tp_free(self);
}

static PyObject *
worker_ready(PyObject *self, PyObject *unused)
{
	worker_object *w = (worker_object *)self;

	return is_open(w) ? none_or_fail(mr_ready(w->handle)) : NULL;
}

static PyObject *
worker_status(PyObject *self, PyObject *args)
{
	worker_object *w = (worker_object *)self;
	const char *text;

	if (!PyArg_ParseTuple(args, "s", &text) || !is_open(w))
		return NULL;
	return none_or_fail(mr_status(w->handle, text));
}

static PyObject *
worker_fileno(PyObject *self, PyObject *unused)
{
	worker_object *w = (worker_object *)self;

	return is_open(w) ? PyLong_FromLong(mr_pollfd(w->handle)) : NULL;
}

/* Frames that should have been released and have views. */
static PyObject *
worker_kept(PyObject *self, PyObject *unused)
{
	worker_object *w = (worker_object *)self;
	long n = 0;

	mr_py_release_asked(w);
	for (struct frame *f = w->asked; f != NULL; f = f->next)
		n++;
	return PyLong_FromLong(n);
}

static session_object *
new_session(worker_object *w, struct mr_session *handle)
{
	session_object *s = PyObject_New(session_object, &session_type);

	if (s == NULL)
		return NULL;
	s->worker = (worker_object *)Py_NewRef(w);
	s->handle = handle;
	s->id = mr_session_id(handle);
	mr_session_set_user(handle, Py_NewRef(s)); /* until STOP */
	return s;
}

/* (kind, session, payload) of an item. */
static PyObject *
item_to_python(worker_object *w, const struct mr_item *item)
{
	session_object *s = mr_session_user(item->session);
	PyObject *payload;

	switch (item->kind) {
	case MR_ITEM_START:
		s = new_session(w, item->session);
		payload = s == NULL ? NULL : Py_BuildValue("(s#IIN)", item->params, (Py_ssize_t)item->params_bytes,
		    item->stream->width, item->stream->height, PyBool_FromLong(item->stream->recovering));
		break;
	case MR_ITEM_PARAMS:
		payload = PyUnicode_FromStringAndSize(item->params, (Py_ssize_t)item->params_bytes);
		Py_INCREF(s);
		break;
	case MR_ITEM_STOP:
		payload = Py_NewRef(Py_None);
		s->handle = NULL;
		mr_session_set_user(item->session, NULL); /* its reference goes to the caller */
		break;
	default:
		payload = mr_py_new_frame(w, s, item->frame);
		Py_INCREF(s);
	}
	if (payload == NULL) {
		Py_XDECREF(s);
		return NULL;
	}
	return Py_BuildValue("(INN)", item->kind, s, payload);
}

static PyObject *
worker_take(PyObject *self, PyObject *args)
{
	worker_object *w = (worker_object *)self;
	struct mr_item item = { .size = sizeof(item) };
	double timeout_s = -1;
	int r;

	if (!PyArg_ParseTuple(args, "|d", &timeout_s) || !is_open(w))
		return NULL;
	mr_py_release_asked(w);
	Py_BEGIN_ALLOW_THREADS
	r = mr_take(w->handle, &item, timeout_s < 0 ? MR_FOREVER : (uint64_t)(timeout_s * 1e9));
	Py_END_ALLOW_THREADS
	if (r == -EINTR && PyErr_CheckSignals() == -1)
		return NULL;
	if (r == -EAGAIN || r == -EINTR)
		Py_RETURN_NONE;
	if (r < 0)
		return fail(r);
	return item_to_python(w, &item);
}

static PyMethodDef worker_methods[] = {
	{ "ready", worker_ready, METH_NOARGS, "The model is loaded: streams may come." },
	{ "take", worker_take, METH_VARARGS, "take(seconds=-1): the next (kind, session, payload), or None" },
	{ "status", worker_status, METH_VARARGS, "status(text): what this worker is doing, for people" },
	{ "fileno", worker_fileno, METH_NOARGS, "Readable when take() may have something." },
	{ "kept", worker_kept, METH_NOARGS, "How many released frames are held by views." },
	{ "close", worker_close, METH_NOARGS, "Leaves." },
	{ 0 },
};

static PyTypeObject worker_type = {
	PyVarObject_HEAD_INIT(NULL, 0)
	.tp_name = "millrace._core.Worker",
	.tp_doc = "This process as a worker. OSError: see errno; ENOTCONN: not started by a supervisor.",
	.tp_basicsize = sizeof(worker_object),
	.tp_flags = Py_TPFLAGS_DEFAULT,
	.tp_new = PyType_GenericNew,
	.tp_init = worker_init,
	.tp_dealloc = worker_dealloc,
	.tp_methods = worker_methods,
};

/* ---- the module -------------------------------------------------------- */

static PyObject *
exit_code(PyObject *self, PyObject *args)
{
	int error;

	if (!PyArg_ParseTuple(args, "i", &error))
		return NULL;
	return PyLong_FromLong(mr_exit_code(-error));
}

static PyMethodDef functions[] = {
	{ "exit_code", exit_code, METH_VARARGS, "exit_code(errno): the code that says what an OSError means" },
	{ 0 },
};

static struct PyModuleDef module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "_core",
	.m_doc = "libmillrace's loop level",
	.m_size = -1,
	.m_methods = functions,
};

static const struct {
	const char *name;
	int value;
} constants[] = {
	{ "START", MR_ITEM_START }, { "PARAMS", MR_ITEM_PARAMS }, { "STOP", MR_ITEM_STOP }, { "VIDEO", MR_ITEM_VIDEO },
	{ "AUDIO", MR_ITEM_AUDIO }, { "OK", MR_OK }, { "PASS", MR_PASS }, { "WITHHOLD", MR_WITHHOLD },
	{ "REASON_NONE", MR_REASON_NONE }, { "REASON_ERROR", MR_REASON_ERROR }, { "REASON_BUSY", MR_REASON_BUSY },
	{ "REASON_LOADING", MR_REASON_LOADING }, { "DISCONTINUITY", MR_FRAME_DISCONTINUITY },
	{ "REDELIVERED", MR_FRAME_REDELIVERED }, { "RGB24", MR_FORMAT_RGB24 }, { "RGBA", MR_FORMAT_RGBA },
	{ "BGR24", MR_FORMAT_BGR24 }, { "NV12", MR_FORMAT_NV12 }, { "I420", MR_FORMAT_I420 },
	{ "RGBF32P", MR_FORMAT_RGBF32P }, { "F32", MR_FORMAT_F32 }, { "TEXT_MAX", MR_TEXT_MAX },
};

static int
add_type(PyObject *m, const char *name, PyTypeObject *type)
{
	return PyType_Ready(type) == -1 ? -1 : PyModule_AddObjectRef(m, name, (PyObject *)type);
}

PyMODINIT_FUNC PyInit__core(void);

PyMODINIT_FUNC
PyInit__core(void)
{
	PyObject *m = PyModule_Create(&module);
	int r = m == NULL ? -1 : PyModule_AddStringConstant(m, "VERSION", mr_version());

	for (size_t i = 0; r == 0 && i < sizeof(constants) / sizeof(constants[0]); i++)
		r = PyModule_AddIntConstant(m, constants[i].name, constants[i].value);
	if (r == 0 && add_type(m, "Worker", &worker_type) == 0 && add_type(m, "Session", &session_type) == 0 &&
	    add_type(m, "Frame", &mr_py_frame_type) == 0 && add_type(m, "Output", &mr_py_output_type) == 0)
		return m;
	Py_XDECREF(m);
	return NULL;
}
