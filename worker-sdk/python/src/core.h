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
 *   core.c        sessions, the worker, the module
 *   core_frame.c  frames and outputs: buffers over the rings
 *
 * Threads. Everything belongs to the thread that made the Worker; only views may be dropped elsewhere, which is why
 * frame_releasebuffer() touches nothing of the library's. The GIL is released while take() waits.
 */
#ifndef MR_PYTHON_CORE_H
#define MR_PYTHON_CORE_H

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

extern PyTypeObject mr_py_frame_type, mr_py_output_type;

/* core_frame.c: gives frames back whose views are gone. In the worker's thread. */
void mr_py_release_asked(worker_object *w);
/* A Frame over a frame that is held; on failure it is released. Borrows the session. */
PyObject *mr_py_new_frame(worker_object *w, session_object *s, const struct mr_frame *handle);

/* Raises OSError with the errno of a negative result. */
static inline PyObject *
fail(int r)
{
	errno = -r;
	return PyErr_SetFromErrno(PyExc_OSError);
}

static inline PyObject *
none_or_fail(int r)
{
	if (r < 0)
		return fail(r);
	Py_RETURN_NONE;
}

static inline bool
is_open(const worker_object *w)
{
	if (w->handle == NULL)
		PyErr_SetString(PyExc_ValueError, "the worker is closed");
	return w->handle != NULL;
}

#endif
