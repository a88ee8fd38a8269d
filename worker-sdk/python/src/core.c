/* SPDX-License-Identifier: MIT */
/*
 * millrace._core: libmillrace's loop level for Python
 *
 * As thin as it can be: what a worker of people looks like is decided in millrace/__init__.py. Here are four types:
 * Worker, Session, Frame (an input frame: a read-only buffer over the shared memory) and Output (a writable one).
 * Nothing is copied.
 *
 * Memory. A view of a Frame (numpy array, memoryview) keeps the frame held: release() only asks, and the frame goes
 * back to the library once its last view is gone, in the worker's thread, at the next take(). So a view never shows memory
 * that is overwritten or unmapped. A view of an Output cannot be called back: publish() refuses while there is one.
 *
 * Threads. Everything belongs to the thread that made the Worker; only views may be dropped elsewhere, which is why
 * frame_releasebuffer() touches nothing of the library's. The GIL is released while take() waits.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <millrace.h>

#include <errno.h>

typedef struct {
	PyObject_HEAD
	struct mr_worker *handle; /* NULL: closed */
	struct frame *asked;	  /* frames that are to be released once their views are gone; each owns a reference */
	Py_ssize_t views;	  /* of all frames and outputs */
} worker_object;

typedef struct {
	PyObject_HEAD
	worker_object *worker;
	struct mr_session *handle; /* NULL: the stream is over */
	uint32_t id;
} session_object;

typedef struct frame {
	PyObject_HEAD
	worker_object *worker;
	session_object *session;
	const struct mr_frame *handle; /* NULL: released */
	struct frame *next;	       /* in worker->asked */
	uint32_t format;
	Py_ssize_t views;
	Py_ssize_t shape[3], strides[3];
} frame_object;

typedef struct {
	PyObject_HEAD
	worker_object *worker;
	struct mr_output out; /* token 0: published or abandoned */
	Py_ssize_t views;
	Py_ssize_t shape[3], strides[3];
} output_object;

static PyTypeObject worker_type, session_type, frame_type, output_type;

/* Raises OSError with the errno of a negative result. */
static PyObject *
fail(int r)
{
	errno = -r;
	return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *
none_or_fail(int r)
{
	if (r < 0)
		return fail(r);
	Py_RETURN_NONE;
}

static bool
is_open(const worker_object *w)
{
	if (w->handle == NULL)
		PyErr_SetString(PyExc_ValueError, "the worker is closed");
	return w->handle != NULL;
}

/* ---- buffers ----------------------------------------------------------- */

/* Fills in shape and strides as numpy likes them; returns the number of dimensions. */
static int
lay_out(uint32_t format, uint32_t width, uint32_t height, uint32_t stride, size_t bytes, uint32_t channels,
    Py_ssize_t *shape, Py_ssize_t *strides)
{
	Py_ssize_t depth = format == MR_FORMAT_RGBA ? 4 : 3;

	switch (format) {
	case MR_FORMAT_RGB24:
	case MR_FORMAT_BGR24:
	case MR_FORMAT_RGBA: /* height, width, colours */
		shape[0] = height;
		shape[1] = width;
		shape[2] = depth;
		strides[0] = stride;
		strides[1] = depth;
		strides[2] = 1;
		return 3;
	case MR_FORMAT_RGBF32P: /* colours, height, width */
		shape[0] = 3;
		shape[1] = height;
		shape[2] = width;
		strides[0] = (Py_ssize_t)stride * height;
		strides[1] = stride;
		strides[2] = 4;
		return 3;
	case MR_FORMAT_F32: /* samples, channels */
		shape[0] = (Py_ssize_t)bytes / (4 * (Py_ssize_t)channels);
		shape[1] = channels;
		strides[0] = 4 * (Py_ssize_t)channels;
		strides[1] = 4;
		return 2;
	default: /* nv12, i420: bytes; millrace.planes() takes them apart */
		shape[0] = (Py_ssize_t)bytes;
		strides[0] = 1;
		return 1;
	}
}

static void
fill_view(Py_buffer *view, PyObject *owner, void *data, size_t bytes, uint32_t format, bool readonly, int ndim,
    Py_ssize_t *shape, Py_ssize_t *strides, int flags)
{
	static char f32[] = "f", u8[] = "B";
	bool is_float = format == MR_FORMAT_F32 || format == MR_FORMAT_RGBF32P;

	*view = (Py_buffer){
		.obj = Py_NewRef(owner),
		.buf = data,
		.len = (Py_ssize_t)bytes,
		.itemsize = is_float ? 4 : 1,
		.readonly = readonly,
		.ndim = ndim,
		.format = (flags & PyBUF_FORMAT) != 0 ? is_float ? f32 : u8 : NULL,
		.shape = (flags & PyBUF_ND) != 0 ? shape : NULL,
		.strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? strides : NULL,
	};
	if (view->shape == NULL) { /* plain bytes are wanted */
		view->ndim = 1;
		view->itemsize = 1;
	}
}

/* ---- frames ------------------------------------------------------------ */

/* Gives frames back whose views are gone. In the worker's thread. */
static void
release_asked(worker_object *w)
{
	struct frame **at = &w->asked;

	while (*at != NULL) {
		frame_object *f = *at;

		if (f->views > 0) {
			at = &f->next;
			continue;
		}
		*at = f->next;
		f->next = NULL;
		if (w->handle != NULL && f->handle != NULL)
			mr_release(w->handle, f->handle);
		f->handle = NULL;
		Py_DECREF(f);
	}
}

static int
frame_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
	frame_object *f = (frame_object *)self;

	view->obj = NULL;
	if (f->handle == NULL || f->worker->handle == NULL) {
		PyErr_SetString(PyExc_BufferError, "the frame was released");
		return -1;
	}
	if ((flags & PyBUF_WRITABLE) == PyBUF_WRITABLE) {
		PyErr_SetString(PyExc_BufferError, "an input frame is read-only");
		return -1;
	}
	fill_view(view, self, (void *)(uintptr_t)f->handle->data, f->handle->bytes, f->format, true,
	    lay_out(f->format, f->handle->width, f->handle->height, f->handle->stride[0], f->handle->bytes,
		f->handle->channels, f->shape, f->strides), f->shape, f->strides, flags);
	f->views++;
	f->worker->views++;
	return 0;
}

static void
frame_releasebuffer(PyObject *self, Py_buffer *view)
{
	frame_object *f = (frame_object *)self;

	f->views--;
	f->worker->views--;
}

static PyObject *
frame_release(PyObject *self, PyObject *unused)
{
	frame_object *f = (frame_object *)self;

	for (struct frame *i = f->worker->asked; i != NULL; i = i->next)
		if (i == f)
			Py_RETURN_NONE;
	if (f->handle != NULL) {
		f->next = f->worker->asked;
		f->worker->asked = (frame_object *)Py_NewRef(self);
		release_asked(f->worker);
	}
	Py_RETURN_NONE;
}

static PyObject *
frame_claim(PyObject *self, PyObject *unused)
{
	frame_object *f = (frame_object *)self;
	output_object *o;
	int r;

	if (!is_open(f->worker))
		return NULL;
	o = PyObject_New(output_object, &output_type);
	if (o == NULL)
		return NULL;
	o->worker = (worker_object *)Py_NewRef(f->worker);
	o->views = 0;
	o->out = (struct mr_output){ .size = sizeof(o->out) };
	r = f->handle != NULL ? mr_claim(f->worker->handle, f->handle, &o->out) : -EINVAL;
	if (r == 0)
		return (PyObject *)o;
	Py_DECREF(o);
	if (r == -EAGAIN || r == -ESTALE) /* the result would be lost */
		Py_RETURN_NONE;
	return fail(r);
}

static PyObject *
frame_answer(PyObject *self, PyObject *args)
{
	frame_object *f = (frame_object *)self;
	int answer, reason = 0, r;

	if (!PyArg_ParseTuple(args, "i|i", &answer, &reason) || !is_open(f->worker))
		return NULL;
	r = f->handle != NULL ? mr_answer(f->worker->handle, f->handle, answer, reason) : -EINVAL;
	return none_or_fail(r == -EAGAIN || r == -ESTALE ? 0 : r);
}

static void
frame_dealloc(PyObject *self)
{
	frame_object *f = (frame_object *)self;

	/* Dropped without release(): only its own thread can have had it, views keep it alive. */
	if (f->handle != NULL && f->worker->handle != NULL)
		mr_release(f->worker->handle, f->handle);
	Py_DECREF(f->worker);
	Py_XDECREF(f->session);
	PyObject_Free(f);
}

enum frame_field { SEQ, PTS, DURATION, FLAGS, FORMAT, WIDTH, HEIGHT, RATE, CHANNELS, SAMPLES, FPS, STRIDES, RELEASED };

static PyObject *
strides_of(uint32_t count, const uint32_t *stride)
{
	PyObject *list = PyTuple_New(count);

	for (uint32_t i = 0; list != NULL && i < count; i++)
		PyTuple_SET_ITEM(list, i, PyLong_FromUnsignedLong(stride[i]));
	return list;
}

static PyObject *
frame_get(PyObject *self, void *field)
{
	frame_object *o = (frame_object *)self;
	const struct mr_frame *f = o->handle;

	if ((enum frame_field)(uintptr_t)field == RELEASED)
		return PyBool_FromLong(f == NULL || o->worker->handle == NULL);
	if (f == NULL || o->worker->handle == NULL) {
		PyErr_SetString(PyExc_ValueError, "the frame was released");
		return NULL;
	}
	switch ((enum frame_field)(uintptr_t)field) {
	case SEQ: return PyLong_FromUnsignedLongLong(f->seq);
	case PTS: return PyLong_FromLongLong(f->pts_ns);
	case DURATION: return PyLong_FromLongLong(f->duration_ns);
	case FLAGS: return PyLong_FromUnsignedLong(f->flags);
	case FORMAT: return PyLong_FromUnsignedLong(f->format);
	case WIDTH: return PyLong_FromUnsignedLong(f->width);
	case HEIGHT: return PyLong_FromUnsignedLong(f->height);
	case RATE: return PyLong_FromUnsignedLong(f->sample_rate);
	case CHANNELS: return PyLong_FromUnsignedLong(f->channels);
	case SAMPLES: return PyLong_FromUnsignedLong(f->sample_count);
	case STRIDES: return strides_of(f->plane_count, f->stride);
	default: return PyFloat_FromDouble(f->rate_den != 0 ? (double)f->rate_num / f->rate_den : 0);
	}
}

#define FIELD(name, id, text) { name, frame_get, NULL, text, (void *)(uintptr_t)(id) }

static PyGetSetDef frame_fields[] = {
	FIELD("seq", SEQ, "number of the frame, unique in the session, grows"),
	FIELD("pts_ns", PTS, "presentation time on the session's clock, nanoseconds"),
	FIELD("duration_ns", DURATION, "nanoseconds; 0: unknown"),
	FIELD("flags", FLAGS, "DISCONTINUITY, REDELIVERED"),
	FIELD("format", FORMAT, "number of the format"),
	FIELD("width", WIDTH, "pixels"),
	FIELD("height", HEIGHT, "pixels"),
	FIELD("sample_rate", RATE, "audio: Hz"),
	FIELD("channels", CHANNELS, "audio: 1 or 2"),
	FIELD("sample_count", SAMPLES, "audio: in each channel"),
	FIELD("frame_rate", FPS, "frames a second as far as known; 0: unknown"),
	FIELD("strides", STRIDES, "bytes from one row to the next, for each plane"),
	FIELD("released", RELEASED, "its memory is gone"),
	{ 0 },
};

static PyMemberDef frame_members[] = {
	{ "session", T_OBJECT, offsetof(frame_object, session), READONLY, "the Session it belongs to" },
	{ 0 },
};

static PyMethodDef frame_methods[] = {
	{ "release", frame_release, METH_NOARGS, "Lets go of the frame, as soon as no view of it is left." },
	{ "claim", frame_claim, METH_NOARGS, "A place for the answer: an Output. None: there is no room." },
	{ "answer", frame_answer, METH_VARARGS, "answer(PASS or WITHHOLD, reason=0)" },
	{ 0 },
};

static PyBufferProcs frame_buffer = { frame_getbuffer, frame_releasebuffer };

static PyTypeObject frame_type = {
	PyVarObject_HEAD_INIT(NULL, 0)
	.tp_name = "millrace._core.Frame",
	.tp_doc = "An input frame: a read-only buffer over shared memory.",
	.tp_basicsize = sizeof(frame_object),
	.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.tp_dealloc = frame_dealloc,
	.tp_methods = frame_methods,
	.tp_members = frame_members,
	.tp_getset = frame_fields,
	.tp_as_buffer = &frame_buffer,
};

/* ---- outputs ----------------------------------------------------------- */

static int
output_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
	output_object *o = (output_object *)self;

	view->obj = NULL;
	if (o->out.token == 0 || o->worker->handle == NULL) {
		PyErr_SetString(PyExc_BufferError, "the output was sent already");
		return -1;
	}
	fill_view(view, self, o->out.data, o->out.bytes, o->out.format, false,
	    lay_out(o->out.format, o->out.width, o->out.height, o->out.stride[0], o->out.bytes, o->out.channels, o->shape,
		o->strides), o->shape, o->strides, flags);
	o->views++;
	o->worker->views++;
	return 0;
}

static void
output_releasebuffer(PyObject *self, Py_buffer *view)
{
	output_object *o = (output_object *)self;

	o->views--;
	o->worker->views--;
}

static PyObject *
output_publish(PyObject *self, PyObject *unused)
{
	output_object *o = (output_object *)self;

	if (!is_open(o->worker))
		return NULL;
	if (o->views > 0) {
		PyErr_SetString(PyExc_BufferError, "a view of the output is kept beyond the handler: write into it and let go");
		return NULL;
	}
	return none_or_fail(mr_publish(o->worker->handle, &o->out));
}

static PyObject *
output_abandon(PyObject *self, PyObject *unused)
{
	output_object *o = (output_object *)self;

	if (o->out.token != 0 && o->worker->handle != NULL)
		mr_abandon(o->worker->handle, &o->out);
	Py_RETURN_NONE;
}

static PyObject *
output_get(PyObject *self, void *field)
{
	const struct mr_output *o = &((output_object *)self)->out;

	switch ((enum frame_field)(uintptr_t)field) {
	case WIDTH: return PyLong_FromUnsignedLong(o->width);
	case HEIGHT: return PyLong_FromUnsignedLong(o->height);
	case STRIDES: return strides_of(o->plane_count, o->stride);
	default: return PyLong_FromUnsignedLong(o->format);
	}
}

#define OUT_FIELD(name, id, text) { name, output_get, NULL, text, (void *)(uintptr_t)(id) }

static PyGetSetDef output_fields[] = {
	OUT_FIELD("format", FORMAT, "number of the format"),
	OUT_FIELD("width", WIDTH, "pixels"),
	OUT_FIELD("height", HEIGHT, "pixels"),
	OUT_FIELD("strides", STRIDES, "bytes from one row to the next, for each plane"),
	{ 0 },
};

static void
output_dealloc(PyObject *self)
{
	output_object *o = (output_object *)self;

	Py_DECREF(output_abandon(self, NULL));
	Py_DECREF(o->worker);
	PyObject_Free(o);
}

static PyMethodDef output_methods[] = {
	{ "publish", output_publish, METH_NOARGS, "Sends what was written. No view of it may be left." },
	{ "abandon", output_abandon, METH_NOARGS, "Gives the place back unsent." },
	{ 0 },
};

static PyBufferProcs output_buffer = { output_getbuffer, output_releasebuffer };

static PyTypeObject output_type = {
	PyVarObject_HEAD_INIT(NULL, 0)
	.tp_name = "millrace._core.Output",
	.tp_doc = "A place for the answer to a frame: a writable buffer over shared memory.",
	.tp_basicsize = sizeof(output_object),
	.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.tp_dealloc = output_dealloc,
	.tp_methods = output_methods,
	.tp_getset = output_fields,
	.tp_as_buffer = &output_buffer,
};

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

	release_asked(w);
	if (w->handle != NULL && w->views == 0)
		mr_close(&w->handle);
	w->handle = NULL; /* with views left the memory stays mapped: the process ends soon */
	release_asked(w);
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

	release_asked(w);
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

static PyObject *
new_frame(worker_object *w, session_object *s, const struct mr_frame *handle)
{
	frame_object *f = PyObject_New(frame_object, &frame_type);

	if (f == NULL) {
		mr_release(w->handle, handle);
		return NULL;
	}
	f->worker = (worker_object *)Py_NewRef(w);
	f->session = (session_object *)Py_XNewRef(s);
	f->handle = handle;
	f->next = NULL;
	f->views = 0;
	f->format = handle->format;
	return (PyObject *)f;
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
		payload = new_frame(w, s, item->frame);
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
	release_asked(w);
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
	    add_type(m, "Frame", &frame_type) == 0 && add_type(m, "Output", &output_type) == 0)
		return m;
	Py_XDECREF(m);
	return NULL;
}
