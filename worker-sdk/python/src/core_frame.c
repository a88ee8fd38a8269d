/* SPDX-License-Identifier: MIT */
/*
 * millrace._core: frames and outputs, which are buffers over the rings
 *
 * Each counts its views. A frame whose release was asked for waits in a list of its worker until the last view is gone;
 * the list is gone through in the worker's thread only.
 */
#include "core.h"

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

void
mr_py_release_asked(worker_object *w)
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
		mr_py_release_asked(f->worker);
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
	o = PyObject_New(output_object, &mr_py_output_type);
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

PyTypeObject mr_py_frame_type = {
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

PyObject *
mr_py_new_frame(worker_object *w, session_object *s, const struct mr_frame *handle)
{
	frame_object *f = PyObject_New(frame_object, &mr_py_frame_type);

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

PyTypeObject mr_py_output_type = {
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
