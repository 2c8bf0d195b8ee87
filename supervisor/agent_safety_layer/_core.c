/* The run loop's routine part, compiled: calls that tables made by the Python part already answer.

   turn ─ epoll ─ receive ─ a plan for this open? ─┬─ yes: waved through, or opened anew by its canonical name
                                                   ├─ a folder's verdict and a frame: opened, made, removed here
                                                   └─ anything else ─► back to Python, with nothing done

   It decides nothing: verdicts, plans and frames come from engine/routine.py and engine/plans.py, whose doings these
   are, call for call; a name, a number or a table that is not as expected makes the call theirs. What is not stated
   here is stated there. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <math.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#define NATIVE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE AUDIT_ARCH_AARCH64
#else
#error "no such machine is known"
#endif

#define VERSION 1 /* of what Python and this agree on: see native.py */
#define TURN_S 0.2
#define PATIENCE_S 0.5
#define FAR_S 20e-6
#define FAR_CALLS 32
#define MOST_KEPT 1024
#define BUFFER_BYTES (64 * 1024)
#define RAW 256             /* of a path that the program names; a longer one is Python's to read */
#define ROOM (PATH_MAX + RAW + 2)

/* An exception is set; nothing was done, the call is Python's; done; nobody waits for the answer any more. */
enum { ERROR = -1, NOT, DONE, GONE };

static double seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* ---- lines: see trace/lines.py -------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *lines;
    long long seq;
    Py_ssize_t size;
    double base;
    char tens[24];
} Lines;

static double rebased(Lines *self, double time)
{
    double t = time > 0 ? time : 0, tens = floor(t / 10), since = t - tens * 10;
    if (since >= 9.9999995) {
        tens += 1;
        since = 0;
    }
    self->base = tens * 10;
    if (tens > 0)
        snprintf(self->tens, sizeof self->tens, "%.0f", tens);
    else
        self->tens[0] = 0;
    return since;
}

static int put(Lines *self, const char *body, Py_ssize_t length, double time, long us)
{
    double since = time - self->base;
    if (!(since >= 0 && since < 9.9999995))
        since = rebased(self, time);
    char *digits = PyOS_double_to_string(since, 'f', 6, 0, NULL);
    if (digits == NULL)
        return ERROR;
    char head[160];
    int n = snprintf(head, sizeof head, "{\"type\":\"event\",\"seq\":%lld,\"time\":%s%s,\"us\":%ld,", self->seq + 1,
                     self->tens, digits, us);
    PyMem_Free(digits);
    PyObject *line = PyBytes_FromStringAndSize(NULL, n + length);
    if (line == NULL)
        return ERROR;
    char *at = PyBytes_AsString(line);
    memcpy(at, head, (size_t)n);
    memcpy(at + n, body, (size_t)length);
    int failed = PyList_Append(self->lines, line);
    Py_DECREF(line);
    if (failed)
        return ERROR;
    self->seq++;
    self->size += n + length;
    return DONE;
}

static PyObject *lines_add(Lines *self, PyObject *args)
{
    const char *body;
    Py_ssize_t length;
    double time;
    long us = 0;
    if (!PyArg_ParseTuple(args, "y#d|l", &body, &length, &time, &us))
        return NULL;
    if (put(self, body, length, time, us) < 0)
        return NULL;
    return PyLong_FromLongLong(self->seq);
}

static PyObject *lines_take(Lines *self, PyObject *Py_UNUSED(nothing))
{
    PyObject *fresh = PyList_New(0), *taken = self->lines;
    if (fresh == NULL)
        return NULL;
    self->lines = fresh;
    self->size = 0;
    return taken;
}

static PyObject *lines_seq(Lines *self, void *Py_UNUSED(closure)) { return PyLong_FromLongLong(self->seq); }

static int lines_set_seq(Lines *self, PyObject *value, void *Py_UNUSED(closure))
{
    long long seq = value ? PyLong_AsLongLong(value) : -1;
    if (PyErr_Occurred())
        return -1;
    self->seq = seq;
    return 0;
}

static PyObject *lines_size(Lines *self, void *Py_UNUSED(closure)) { return PyLong_FromSsize_t(self->size); }

static PyObject *lines_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Lines *self = (Lines *)make(type, 0);
    if (self != NULL && (self->lines = PyList_New(0)) == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void lines_free(Lines *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    Py_CLEAR(self->lines);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyMethodDef lines_methods[] = {
    {"add", (PyCFunction)lines_add, METH_VARARGS, "The event's position in the trace."},
    {"take", (PyCFunction)lines_take, METH_NOARGS, "The lines since the last time."},
    {NULL, NULL, 0, NULL}};
static PyGetSetDef lines_fields[] = {{"seq", (getter)lines_seq, (setter)lines_set_seq, "of the latest event", NULL},
                                     {"size", (getter)lines_size, NULL, "of the lines, in bytes", NULL},
                                     {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot lines_slots[] = {{Py_tp_new, lines_new},
                                    {Py_tp_dealloc, lines_free},
                                    {Py_tp_methods, lines_methods},
                                    {Py_tp_getset, lines_fields},
                                    {0, NULL}};
static PyType_Spec lines_spec = {"agent_safety_layer._core.Lines", sizeof(Lines), 0, Py_TPFLAGS_DEFAULT, lines_slots};

/* ---- the core ------------------------------------------------------------------------------------------------- */

static PyTypeObject *lines_type; /* kept for ever */

typedef struct {
    PyObject_HEAD
    int listener, epoll, guarded;
    double alarmed;  /* when the alarm that stands for all receives has to be set again */
    int latest, far; /* thread that a descriptor was installed for; how many more times it is kept near for that */
    Lines *lines;
    PyObject *threads;  /* thread id -> Process */
    PyObject *plans;    /* Plans */
    PyObject *plan;     /* Plan, the class */
    PyObject *verdicts; /* (kind, both, folder) -> Verdict or None */
    PyObject *verdict;  /* makes them */
    PyObject *as_creator, *flush;
    PyObject *call; /* makes a Call of its fields */
} Core;

static struct {
    PyObject *mem, *cache, *exec_pending, *spans, *span, *span_of, *epoch, *number, *about, *bounded, *n;
    PyObject *read, *list, *write, *create, *delete, *meta;
    PyObject *empty, *minus;
} names;

typedef struct {
    struct seccomp_notif notif;
    double started;
    PyObject *process, *cache; /* owned */
    PyObject *span;            /* owned, once asked for */
    int mem;
    char raw[RAW];
    size_t raw_length;
    char path[ROOM]; /* absolute */
    size_t length, base;
} Call;

typedef struct {
    char text[ROOM];
    size_t length;
} Name;

/* What is written about a call: owned references. */
typedef struct {
    PyObject *body, *slot;
    int bounded;
} Told;

static int openat2(int at, const char *path, int flags, uint64_t resolve)
{
    struct open_how how = {.flags = (uint64_t)(unsigned)flags, .mode = 0, .resolve = resolve};
    return (int)syscall(SYS_openat2, at, path, &how, sizeof how);
}

/* Adds one to a number that *object* has. */
static int count(PyObject *object, PyObject *name)
{
    PyObject *number = PyObject_GetAttr(object, name), *more = NULL;
    if (number != NULL)
        more = PyLong_FromLongLong(PyLong_AsLongLong(number) + 1);
    Py_XDECREF(number);
    int failed = more == NULL || PyErr_Occurred() || PyObject_SetAttr(object, name, more) < 0;
    Py_XDECREF(more);
    return failed ? ERROR : DONE;
}

static long number_of(PyObject *object, PyObject *name)
{
    PyObject *found = PyObject_GetAttr(object, name);
    if (found == NULL)
        return -1;
    long number = PyLong_AsLong(found);
    Py_DECREF(found);
    return number;
}

/* -- answering: as hooks/asl_hooks/notify.py -- */

static int answer(Core *core, uint64_t id, int64_t value, int error, uint32_t flags)
{
    struct seccomp_notif_resp response = {.id = id, .val = value, .error = error, .flags = flags};
    int failed;
    do
        failed = ioctl(core->listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
    while (failed && errno == EINTR);
    if (!failed)
        return DONE;
    return errno == ENOENT || errno == EINPROGRESS ? GONE : NOT;
}

static int add(Core *core, struct seccomp_notif_addfd *request)
{
    int installed;
    Py_BEGIN_ALLOW_THREADS /* the tracee has to run for it, whenever that is */
    installed = ioctl(core->listener, SECCOMP_IOCTL_NOTIF_ADDFD, request);
    Py_END_ALLOW_THREADS
    return installed;
}

static int add_near(Core *core, pid_t tid, struct seccomp_notif_addfd *request)
{
    if (tid != core->latest) {
        core->latest = tid;
        core->far = 0;
    }
    if (!core->far) {
        double began = seconds(CLOCK_MONOTONIC);
        int installed = add(core, request), why = errno;
        core->far = seconds(CLOCK_MONOTONIC) - began > FAR_S ? FAR_CALLS : 0;
        errno = why;
        return installed;
    }
    core->far--;
    unsigned long cpus[128], here[128] = {0};
    int cpu = sched_getcpu(), bits = 8 * (int)sizeof cpus[0];
    long size = syscall(SYS_sched_getaffinity, tid, sizeof cpus, cpus);
    if (size <= 0 || cpu < 0 || cpu >= size * 8 || !(cpus[cpu / bits] >> (cpu % bits) & 1))
        return add(core, request);
    here[cpu / bits] = 1UL << (cpu % bits);
    if (syscall(SYS_sched_setaffinity, tid, (size_t)size, here))
        return add(core, request);
    int installed = add(core, request), why = errno;
    syscall(SYS_sched_setaffinity, tid, (size_t)size, cpus);
    errno = why;
    return installed;
}

/* Installs *fd*, which is closed here. */
static int give(Core *core, const Call *call, int fd, int flags)
{
    struct seccomp_notif_addfd request = {.id = call->notif.id, .srcfd = (uint32_t)fd,
                                          .newfd_flags = flags & O_CLOEXEC ? O_CLOEXEC : 0};
    int installed;
    do
        installed = add_near(core, (pid_t)call->notif.pid, &request);
    while (installed < 0 && errno == EINTR);
    int why = errno;
    close(fd);
    if (installed >= 0)
        return answer(core, call->notif.id, installed, 0, 0);
    if (why == EMFILE || why == ENFILE)
        return answer(core, call->notif.id, 0, -why, 0);
    return why == ENOENT || why == EINPROGRESS ? GONE : NOT;
}

/* -- writing down: as Recorder.repeat -- */

static int record(Core *core, const Call *call, PyObject *body, PyObject *slot, const char *result)
{
    char *text;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(body, &text, &length) < 0)
        return ERROR;
    if (!length)
        return DONE;
    long us = (long)((seconds(CLOCK_REALTIME) - call->started) * 1e6);
    if (result == NULL) {
        if (put(core->lines, text, length, call->started, us) < 0)
            return ERROR;
    } else {
        char end[64];
        int more = snprintf(end, sizeof end, ",\"result\":\"%s\"}\n", result);
        PyObject *said = PyBytes_FromStringAndSize(NULL, length - 2 + more);
        if (said == NULL)
            return ERROR;
        memcpy(PyBytes_AsString(said), text, (size_t)length - 2);
        memcpy(PyBytes_AsString(said) + length - 2, end, (size_t)more);
        int put_down = put(core->lines, PyBytes_AsString(said), PyBytes_Size(said), call->started, us);
        Py_DECREF(said);
        if (put_down < 0)
            return ERROR;
    }
    if (count(slot, names.n) < 0)
        return ERROR;
    if (core->lines->size > BUFFER_BYTES) {
        PyObject *done = PyObject_CallNoArgs(core->flush);
        if (done == NULL)
            return ERROR;
        Py_DECREF(done);
    }
    return DONE;
}

/* The end of a call: *sent* is what became of the answer. */
static int told(Core *core, const Call *call, int sent, const Told *what, const char *result)
{
    return sent == DONE ? record(core, call, what->body, what->slot, result) : sent;
}

static int go_on(Core *core, const Call *call, const Told *what)
{
    return told(core, call, answer(core, call->notif.id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE), what, NULL);
}

static int succeed(Core *core, const Call *call, const Told *what)
{
    return told(core, call, answer(core, call->notif.id, 0, 0, 0), what, NULL);
}

/* -- names -- */

/* Canonical names keep clear of "//", "/./", "/../". */
static int winds(const char *path, size_t length)
{
    for (const char *at = strchr(path, '/'); at != NULL; at = strchr(at + 1, '/')) {
        const char *next = at + 1;
        if (*next == '.')
            next += next[1] == '.' ? 2 : 1;
        if (*next == '/' || (*next == 0 && length > 0))
            return 1;
    }
    return 0;
}

static int plain(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (text[i] < 0x20 || text[i] > 0x7e || text[i] == '"' || text[i] == '\\')
            return 0;
    return 1;
}

static int starts(const char *text, const char *with) { return strncmp(text, with, strlen(with)) == 0; }

static int ends(const char *text, size_t length, const char *with)
{
    size_t n = strlen(with);
    return length >= n && memcmp(text + length - n, with, n) == 0;
}

/* A descriptor of what the absolute *path* names, and its canonical name; -1 when it is Python's. */
static int hold(const char *path, size_t length, int how, Name *name)
{
    if (!winds(path, length)) {
        int fd = openat2(AT_FDCWD, path, how, RESOLVE_NO_SYMLINKS);
        if (fd >= 0) {
            memcpy(name->text, path, length + 1);
            name->length = length;
            return fd;
        }
        if (errno != ELOOP)
            return -1;
    }
    int fd = openat2(AT_FDCWD, path, how, RESOLVE_NO_MAGICLINKS);
    if (fd < 0)
        return -1;
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, name->text, PATH_MAX);
    if (n <= 0 || n >= PATH_MAX) {
        close(fd);
        return -1;
    }
    name->text[n] = 0;
    name->length = (size_t)n;
    return fd;
}

/* The folder that a relative path starts from, into call->path; its length, or 0. */
static size_t base_of(Call *call, int dir_fd)
{
    char link[48];
    if (dir_fd == AT_FDCWD)
        snprintf(link, sizeof link, "/proc/%d/cwd", (int)call->notif.pid);
    else if (dir_fd >= 0)
        snprintf(link, sizeof link, "/proc/%d/fd/%d", (int)call->notif.pid, dir_fd);
    else
        return 0;
    ssize_t n = readlink(link, call->path, PATH_MAX);
    if (n <= 0 || n >= PATH_MAX || call->path[0] != '/' || ends(call->path, (size_t)n, " (deleted)"))
        return 0;
    return (size_t)n;
}

/* -- what is said about a file: as Routine._framed. DONE, NOT for what is not routine, ERROR. -- */

static int span_of(Call *call)
{
    if (call->span != NULL)
        return DONE;
    PyObject *spans = PyObject_GetAttr(call->process, names.spans);
    if (spans == NULL)
        return ERROR;
    Py_ssize_t several = PyDict_Size(spans);
    Py_DECREF(spans);
    if (several > 0) {
        PyObject *tid = PyLong_FromLong((long)call->notif.pid);
        if (tid == NULL)
            return ERROR;
        call->span = PyObject_CallMethodObjArgs(call->process, names.span_of, tid, NULL);
        Py_DECREF(tid);
    } else
        call->span = PyObject_GetAttr(call->process, names.span);
    return call->span == NULL ? ERROR : DONE;
}

static PyObject *found_frame(Call *call, PyObject *kind, PyObject *number, long flags, long mode)
{
    PyObject *key = PyTuple_New(7);
    if (key == NULL || span_of(call) < 0) {
        Py_XDECREF(key);
        return NULL;
    }
    PyObject *parts[7] = {Py_NewRef(kind), Py_NewRef(number), PyLong_FromLong(call->notif.data.nr),
                          PyLong_FromLong(flags), PyLong_FromLong(mode), PyLong_FromLong((long)call->notif.pid),
                          Py_NewRef(call->span)};
    int failed = 0;
    for (int i = 0; i < 7; i++) {
        failed |= parts[i] == NULL;
        PyTuple_SetItem(key, i, parts[i]);
    }
    PyObject *frame = failed ? NULL : PyDict_GetItemWithError(call->cache, key);
    Py_XINCREF(frame);
    Py_DECREF(key);
    return frame;
}

static int framed(Core *core, Call *call, PyObject *kind, const Name *name, int both, long flags, long mode, Told *what)
{
    const char *text = name->text, *last = strrchr(text, '/');
    size_t folder = last == NULL ? 0 : (size_t)(last - text);
    if (folder <= 1 || ends(text, name->length, " (deleted)") || !plain(text, name->length) || starts(text, "/proc/") ||
        starts(text, "/sys/") || (starts(text, "/dev/") && !starts(text, "/dev/shm/")))
        return NOT;
    PyObject *where = PyBytes_FromStringAndSize(text, (Py_ssize_t)folder);
    PyObject *key = where ? PyTuple_Pack(3, kind, both ? Py_True : Py_False, where) : NULL;
    Py_XDECREF(where);
    if (key == NULL)
        return ERROR;
    PyObject *verdict = PyDict_GetItemWithError(core->verdicts, key);
    Py_XINCREF(verdict);
    if (verdict == NULL && !PyErr_Occurred())
        verdict = PyObject_CallObject(core->verdict, key);
    Py_DECREF(key);
    if (verdict == NULL)
        return ERROR;
    if (verdict == Py_None) {
        Py_DECREF(verdict);
        return NOT;
    }
    int result = ERROR;
    PyObject *number = PyObject_GetAttr(verdict, names.number), *bounded = NULL, *frame = NULL;
    PyObject *file = PyUnicode_FromStringAndSize(last + 1, (Py_ssize_t)(name->length - folder - 1));
    if (number == NULL || file == NULL)
        goto out;
    if (PyLong_AsLong(number) < 0) {
        result = PyErr_Occurred() ? ERROR : NOT;
        goto out;
    }
    PyObject *about = PyObject_CallMethodObjArgs(verdict, names.about, file, NULL);
    if (about == NULL)
        goto out;
    int varies = PyObject_IsTrue(about);
    Py_DECREF(about);
    if (varies) {
        result = varies < 0 ? ERROR : NOT;
        goto out;
    }
    bounded = PyObject_GetAttr(verdict, names.bounded);
    if (bounded == NULL)
        goto out;
    frame = found_frame(call, kind, number, flags, mode);
    if (frame == NULL) {
        result = PyErr_Occurred() ? ERROR : NOT;
        goto out;
    }
    PyObject *head = PyTuple_GetItem(frame, 0), *tail = PyTuple_GetItem(frame, 1), *slot = PyTuple_GetItem(frame, 2);
    if (slot == NULL)
        goto out;
    const char *before = PyBytes_AsString(head), *behind = PyBytes_AsString(tail);
    if (before == NULL || behind == NULL)
        goto out;
    int same = name->length == call->length && memcmp(text, call->path, call->length) == 0;
    if (!*before)
        what->body = PyBytes_FromStringAndSize("", 0);
    else if (same)
        what->body = PyBytes_FromFormat("%s%s%s", before, text, behind);
    else if (plain(call->path, call->length))
        what->body = PyBytes_FromFormat("%s%s\",\"spelled\":\"%s%s", before, text, call->path, behind);
    else {
        result = NOT;
        goto out;
    }
    if (what->body == NULL)
        goto out;
    what->slot = Py_NewRef(slot);
    what->bounded = PyObject_IsTrue(bounded);
    result = DONE;
out:
    Py_XDECREF(frame);
    Py_XDECREF(bounded);
    Py_XDECREF(file);
    Py_XDECREF(number);
    Py_DECREF(verdict);
    return result;
}

/* -- plans -- */

static PyObject *key_of(Call *call, int dir_at, uint64_t flags, int relative)
{
    PyObject *spans = PyObject_GetAttr(call->process, names.spans);
    if (spans == NULL)
        return NULL;
    Py_ssize_t spanned = PyDict_Size(spans);
    Py_DECREF(spans);
    if (spanned && span_of(call) < 0)
        return NULL;
    PyObject *key = PyTuple_New(2 + (spanned ? 1 : 0) + (relative ? 2 : 0));
    if (key == NULL)
        return NULL;
    Py_ssize_t at = 0;
    PyTuple_SetItem(key, at++, PyBytes_FromStringAndSize(call->raw, (Py_ssize_t)call->raw_length));
    PyTuple_SetItem(key, at++, PyLong_FromUnsignedLongLong(flags));
    if (spanned)
        PyTuple_SetItem(key, at++, Py_NewRef(call->span));
    if (relative) {
        uint64_t from = dir_at >= 0 ? call->notif.data.args[dir_at] : (uint32_t)AT_FDCWD;
        PyTuple_SetItem(key, at++, PyLong_FromUnsignedLongLong(from));
        PyTuple_SetItem(key, at++, PyLong_FromLong((long)call->notif.pid));
    }
    if (PyErr_Occurred()) {
        Py_DECREF(key);
        return NULL;
    }
    return key;
}

static int keep(Core *core, Call *call, PyObject *key, const char *again, const Told *what)
{
    if (key == NULL || strstr(call->raw, "/proc") != NULL || strstr(call->raw, "/dev") != NULL)
        return DONE;
    if (PyDict_Size(call->cache) > MOST_KEPT)
        PyDict_Clear(call->cache);
    PyObject *epoch = PyObject_GetAttr(core->plans, names.epoch);
    PyObject *base = PyBytes_FromStringAndSize(call->path, call->raw[0] == '/' ? 0 : (Py_ssize_t)call->base);
    PyObject *reopen = PyBytes_FromString(again);
    PyObject *plan = NULL;
    if (epoch != NULL && base != NULL && reopen != NULL)
        plan = PyObject_CallFunctionObjArgs(core->plan, epoch, base, reopen, what->body, what->slot, NULL);
    int failed = plan == NULL || PyDict_SetItem(call->cache, key, plan) < 0;
    Py_XDECREF(plan);
    Py_XDECREF(reopen);
    Py_XDECREF(base);
    Py_XDECREF(epoch);
    return failed ? ERROR : DONE;
}

static int open_again(const char *path, size_t length, int flags)
{
    int how = (flags & ~(O_CREAT | O_EXCL | O_TRUNC)) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    int fd = openat2(AT_FDCWD, path, how, RESOLVE_NO_SYMLINKS);
    if (fd < 0)
        return -1;
    struct stat there;
    mode_t wanted = path[length - 1] == '/' ? S_IFDIR : S_IFREG;
    if (fstat(fd, &there) || (there.st_mode & S_IFMT) != wanted || (wanted == S_IFREG && there.st_nlink > 1)) {
        close(fd);
        return -1;
    }
    if (!(flags & O_NONBLOCK)) {
        int now = fcntl(fd, F_GETFL);
        if (now < 0 || fcntl(fd, F_SETFL, now & ~O_NONBLOCK)) {
            close(fd);
            return -1;
        }
    }
    return fd;
}

static int planned(Core *core, Call *call, PyObject *key, int relative, uint64_t flags)
{
    PyObject *plan = PyDict_GetItemWithError(call->cache, key);
    if (plan == NULL)
        return PyErr_Occurred() ? ERROR : NOT;
    Py_INCREF(plan);
    int result = ERROR;
    PyObject *epoch = PyObject_GetAttr(core->plans, names.epoch);
    PyObject *base = PyTuple_GetItem(plan, 1), *reopen = PyTuple_GetItem(plan, 2);
    Told what = {PyTuple_GetItem(plan, 3), PyTuple_GetItem(plan, 4), 0}; /* borrowed from the plan */
    if (epoch == NULL || what.slot == NULL)
        goto out;
    int now = PyObject_RichCompareBool(PyTuple_GetItem(plan, 0), epoch, Py_EQ);
    if (now <= 0) {
        result = now < 0 ? ERROR : NOT;
        goto out;
    }
    size_t from = (size_t)PyBytes_Size(base);
    if (relative && (from != call->base || memcmp(PyBytes_AsString(base), call->path, from))) {
        result = NOT;
        goto out;
    }
    Py_ssize_t length = PyBytes_Size(reopen);
    if (length > 0) {
        if (flags > INT_MAX) {
            result = NOT;
            goto out;
        }
        int fd = open_again(PyBytes_AsString(reopen), (size_t)length, (int)flags);
        if (fd < 0) {
            result = NOT;
            goto out;
        }
        result = told(core, call, give(core, call, fd, (int)flags), &what, NULL);
    } else
        result = go_on(core, call, &what);
out:
    Py_XDECREF(epoch);
    Py_DECREF(plan);
    return result;
}

/* -- the calls: as Routine's methods of the same names -- */

static void forget(Told *what)
{
    Py_CLEAR(what->body);
    Py_CLEAR(what->slot);
}

static int open_there(Core *core, Call *call, PyObject *key, int flags, long mode)
{
    Name name;
    int held = hold(call->path, call->length, O_PATH | O_CLOEXEC | (flags & O_NOFOLLOW), &name);
    if (held < 0)
        return NOT;
    int result = NOT, writes = flags & (O_ACCMODE | O_TRUNC);
    struct stat there;
    Told what = {NULL, NULL, 0};
    PyObject *kind = NULL;
    if (fstat(held, &there))
        goto out;
    int folder = S_ISDIR(there.st_mode);
    if (S_ISREG(there.st_mode) && there.st_nlink == 1 && writes != O_TRUNC)
        kind = writes ? names.write : names.read;
    else if (folder && !writes && !(flags & O_CREAT))
        kind = names.list;
    else
        goto out;
    result = framed(core, call, kind, &name, writes && (flags & O_ACCMODE) != O_WRONLY, flags, mode, &what);
    if (result != DONE)
        goto out;
    if (what.bounded) {
        result = go_on(core, call, &what);
        if (result == DONE)
            result = keep(core, call, key, "", &what);
        goto out;
    }
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", held);
    int how = (flags & ~(O_CREAT | O_EXCL | O_NOFOLLOW)) | O_CLOEXEC | O_NOCTTY, fd = open(link, how);
    if (fd < 0) {
        result = NOT;
        goto out;
    }
    result = told(core, call, give(core, call, fd, flags), &what, NULL);
    if (result == DONE) {
        if (folder) {
            name.text[name.length] = '/';
            name.text[name.length + 1] = 0;
        }
        result = keep(core, call, key, name.text, &what);
    }
out:
    forget(&what);
    close(held);
    return result;
}

/* A descriptor of the folder that the path is a name in; the canonical name of that, and where its last part begins. */
static int parent_of(Call *call, Name *name, const char **last)
{
    char *slash = strrchr(call->path, '/');
    *last = slash + 1;
    if (slash == call->path || !**last || !strcmp(*last, ".") || !strcmp(*last, ".."))
        return -1;
    *slash = 0;
    int parent = hold(call->path, (size_t)(slash - call->path), O_PATH | O_DIRECTORY | O_CLOEXEC, name);
    *slash = '/';
    size_t more = call->length - (size_t)(slash - call->path);
    if (parent >= 0 && name->length + more >= ROOM - 2) {
        close(parent);
        return -1;
    }
    if (parent >= 0) {
        memcpy(name->text + name->length, slash, more + 1);
        name->length += more;
    }
    return parent;
}

/* NOT when its umask cannot be read: it may have been killed. */
static int as_creator(Core *core, const Call *call)
{
    PyObject *done = PyObject_CallFunctionObjArgs(core->as_creator, call->process, NULL);
    if (done != NULL) {
        Py_DECREF(done);
        return DONE;
    }
    if (!PyErr_ExceptionMatches(PyExc_OSError) && !PyErr_ExceptionMatches(PyExc_ValueError))
        return ERROR;
    PyErr_Clear();
    return NOT;
}

/* NOT also when something is there; then *there* is set. */
static int create(Core *core, Call *call, int flags, mode_t mode, int *there)
{
    Name name;
    const char *last;
    int parent = parent_of(call, &name, &last);
    if (parent < 0)
        return NOT;
    Told what = {NULL, NULL, 0};
    int result = framed(core, call, names.create, &name, (flags & O_ACCMODE) != O_WRONLY, flags, (long)mode, &what);
    if (result != DONE)
        goto out;
    if (what.bounded) {
        struct stat found;
        *there = fstatat(parent, last, &found, AT_SYMLINK_NOFOLLOW) == 0;
        if (*there || errno != ENOENT) {
            result = NOT;
            goto out;
        }
        result = go_on(core, call, &what);
        goto out;
    }
    result = as_creator(core, call);
    if (result != DONE)
        goto out;
    int made = openat(parent, last, (flags & ~O_TRUNC) | O_EXCL | O_CLOEXEC, mode);
    if (made < 0) {
        *there = errno == EEXIST;
        result = NOT;
        goto out;
    }
    result = told(core, call, give(core, call, made, flags), &what, NULL);
out:
    forget(&what);
    close(parent);
    return result;
}

static int mkdir_(Core *core, Call *call, mode_t mode)
{
    Name name;
    const char *last;
    int parent = parent_of(call, &name, &last);
    if (parent < 0)
        return NOT;
    Told what = {NULL, NULL, 0};
    struct stat there;
    int result = NOT;
    if (starts(name.text, "/proc/"))
        ; /* what is there depends on who looks */
    else if (fstatat(parent, last, &there, AT_SYMLINK_NOFOLLOW) == 0)
        result = answer(core, call->notif.id, 0, -EEXIST, 0);
    else if (errno == ENOENT) {
        result = framed(core, call, names.create, &name, 0, -1, (long)mode, &what);
        if (result == DONE)
            result = count(core->plans, names.epoch);
        if (result == DONE && what.bounded)
            result = go_on(core, call, &what);
        else if (result == DONE && (result = as_creator(core, call)) == DONE)
            result = mkdirat(parent, last, mode) ? NOT : succeed(core, call, &what);
    }
    forget(&what);
    close(parent);
    return result;
}

/* unlink(2), or of a *folder* rmdir(2). */
static int remove_(Core *core, Call *call, int folder)
{
    Name name;
    const char *last;
    int parent = parent_of(call, &name, &last);
    if (parent < 0)
        return NOT;
    Told what = {NULL, NULL, 0};
    struct stat there;
    int result = NOT;
    int missing = fstatat(parent, last, &there, AT_SYMLINK_NOFOLLOW) != 0;
    if (missing ? folder || errno != ENOENT : (there.st_mode & S_IFMT) != (folder ? S_IFDIR : S_IFREG))
        goto out;
    result = framed(core, call, names.delete, &name, 0, -1, -1, &what);
    if (result == DONE && folder)
        result = count(core->plans, names.epoch);
    if (result != DONE)
        goto out;
    if (what.bounded)
        result = go_on(core, call, &what);
    else if (missing)
        result = told(core, call, answer(core, call->notif.id, 0, -ENOENT, 0), &what, "ENOENT");
    else if (unlinkat(parent, last, folder ? AT_REMOVEDIR : 0) == 0)
        result = succeed(core, call, &what);
    else
        result = NOT;
out:
    forget(&what);
    close(parent);
    return result;
}

static int change(Core *core, Call *call, int follow, long mode, const struct timespec *times, int by_mode)
{
    Name name;
    int held = hold(call->path, call->length, O_PATH | O_CLOEXEC | follow, &name);
    if (held < 0)
        return NOT;
    Told what = {NULL, NULL, 0};
    struct stat there;
    int result = NOT;
    if (fstat(held, &there) || !(S_ISDIR(there.st_mode) || (S_ISREG(there.st_mode) && there.st_nlink == 1)))
        goto out;
    result = framed(core, call, names.meta, &name, 0, -1, mode, &what);
    if (result != DONE)
        goto out;
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", held);
    if (by_mode ? chmod(link, (mode_t)mode) : utimensat(AT_FDCWD, link, times, 0))
        result = NOT;
    else
        result = succeed(core, call, &what);
out:
    forget(&what);
    close(held);
    return result;
}

static int opening(Core *core, Call *call, PyObject *key, int flags, mode_t mode)
{
    if (flags & (O_PATH | (O_TMPFILE & ~O_DIRECTORY)) || (flags & (O_CREAT | O_DIRECTORY)) == (O_CREAT | O_DIRECTORY))
        return NOT;
    if (!(flags & O_CREAT))
        return open_there(core, call, key, flags, -1);
    int there = 0, result = create(core, call, flags, mode, &there);
    if (result != NOT || !there || flags & O_EXCL)
        return result;
    return open_there(core, call, NULL, flags, (long)mode);
}

/* -- one call -- */

static int serve_known(Core *core, Call *call, int dir_at, int path_at)
{
    const __u64 *args = call->notif.data.args;
    uint64_t at = args[path_at];
    if (at > INT64_MAX)
        return NOT;
    ssize_t got = pread(call->mem, call->raw, RAW, (off_t)at);
    const char *end = got > 0 ? memchr(call->raw, 0, (size_t)got) : NULL;
    if (end == NULL || end == call->raw)
        return NOT;
    call->raw_length = (size_t)(end - call->raw);
    int relative = call->raw[0] != '/';
    call->base = 0;
    if (relative) {
        call->base = base_of(call, dir_at >= 0 ? (int)args[dir_at] : AT_FDCWD);
        if (!call->base)
            return NOT;
    }
    int nr = call->notif.data.nr, opens = nr == SYS_openat;
#ifdef SYS_open
    opens |= nr == SYS_open;
#endif
    PyObject *key = NULL;
    int result = NOT;
    uint64_t flags = args[path_at + 1];
    if (opens && !(flags & (O_CREAT | O_TRUNC))) {
        key = key_of(call, dir_at, flags, relative);
        if (key == NULL)
            return ERROR;
        result = planned(core, call, key, relative, flags);
        if (result != NOT)
            goto out;
    }
    size_t start = 0;
    if (relative) {
        start = call->base;
        call->path[start++] = '/';
    }
    memcpy(call->path + start, call->raw, call->raw_length + 1);
    call->length = start + call->raw_length;
    if (strstr(call->path, "/proc") != NULL)
        goto out;
    if (opens) {
        result = opening(core, call, key, (int)(flags & INT_MAX), (mode_t)(args[path_at + 2] & 07777));
        goto out;
    }
    switch (nr) {
#ifdef SYS_open
    case SYS_mkdir:
#endif
    case SYS_mkdirat:
        result = mkdir_(core, call, (mode_t)(flags & 07777));
        break;
#ifdef SYS_open
    case SYS_unlink:
    case SYS_rmdir:
        result = remove_(core, call, nr == SYS_rmdir);
        break;
#endif
    case SYS_unlinkat:
        result = (uint32_t)flags & ~(uint32_t)AT_REMOVEDIR ? NOT : remove_(core, call, (uint32_t)flags != 0);
        break;
#ifdef SYS_open
    case SYS_chmod:
#endif
    case SYS_fchmodat:
        result = change(core, call, 0, (long)(flags & 07777), NULL, 1);
        break;
    case SYS_utimensat: {
        struct timespec times[2];
        uint32_t how = (uint32_t)args[path_at + 2];
        if (how & ~(uint32_t)AT_SYMLINK_NOFOLLOW || flags > INT64_MAX)
            break;
        if (flags && pread(call->mem, times, sizeof times, (off_t)flags) != (ssize_t)sizeof times)
            break;
        result = change(core, call, how ? O_NOFOLLOW : 0, -1, flags ? times : NULL, 0);
        break;
    }
    }
out:
    Py_XDECREF(key);
    return result;
}

static int serve(Core *core, Call *call)
{
    int dir_at, path_at;
    if (call->notif.data.arch != NATIVE)
        return NOT;
    switch (call->notif.data.nr) {
#ifdef SYS_open
    case SYS_open:
    case SYS_mkdir:
    case SYS_unlink:
    case SYS_rmdir:
    case SYS_chmod:
        dir_at = -1;
        path_at = 0;
        break;
#endif
    case SYS_openat:
    case SYS_mkdirat:
    case SYS_unlinkat:
    case SYS_fchmodat:
    case SYS_utimensat:
        dir_at = 0;
        path_at = 1;
        break;
    default:
        return NOT;
    }
    PyObject *tid = PyLong_FromLong((long)call->notif.pid);
    if (tid == NULL)
        return ERROR;
    PyObject *process = PyDict_GetItemWithError(core->threads, tid);
    Py_DECREF(tid);
    if (process == NULL)
        return PyErr_Occurred() ? ERROR : NOT;
    call->process = Py_NewRef(process);
    call->span = NULL;
    int result = ERROR;
    PyObject *pending = PyObject_GetAttr(process, names.exec_pending);
    call->cache = PyObject_GetAttr(process, names.cache);
    call->mem = (int)number_of(process, names.mem);
    if (pending != NULL && call->cache != NULL && !PyErr_Occurred())
        result = pending == Py_False ? serve_known(core, call, dir_at, path_at) : NOT;
    Py_XDECREF(pending);
    Py_CLEAR(call->cache);
    Py_CLEAR(call->span);
    Py_CLEAR(call->process);
    return result;
}

/* -- the loop -- */

static int receive(Core *core, struct seccomp_notif *notif)
{
    memset(notif, 0, sizeof *notif);
    if (core->guarded) {
        double now = seconds(CLOCK_MONOTONIC);
        if (now >= core->alarmed) {
            core->alarmed = now + PATIENCE_S / 2;
            struct itimerval alarm = {{0, 0}, {0, (suseconds_t)(PATIENCE_S * 1e6)}};
            setitimer(ITIMER_REAL, &alarm, NULL);
        }
    }
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = ioctl(core->listener, SECCOMP_IOCTL_NOTIF_RECV, notif);
    Py_END_ALLOW_THREADS
    if (!failed)
        return DONE;
    if (errno == ENOENT || errno == EINTR)
        return NOT;
    PyErr_SetFromErrno(PyExc_OSError);
    return ERROR;
}

static PyObject *call_of(const Core *core, const struct seccomp_notif *notif)
{
    const __u64 *a = notif->data.args;
    return PyObject_CallFunction(core->call, "((KlIi(KKKKKK)))", notif->id, (long)notif->pid,
                                 (unsigned)notif->data.arch, notif->data.nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static PyObject *core_turn(Core *core, PyObject *args)
{
    double timeout, until;
    long long pause_at;
    if (!PyArg_ParseTuple(args, "ddL", &timeout, &until, &pause_at))
        return NULL;
    Call call;
    for (;;) {
        struct epoll_event ready[64];
        int n, wait_ms = timeout < 0 ? -1 : (int)ceil(timeout * 1e3);
        Py_BEGIN_ALLOW_THREADS
        n = epoll_wait(core->epoll, ready, 64, wait_ms);
        Py_END_ALLOW_THREADS
        int why = errno;
        if (PyErr_CheckSignals())
            return NULL;
        if (n < 0 && why != EINTR) {
            errno = why;
            return PyErr_SetFromErrno(PyExc_OSError);
        }
        if (n != 1 || ready[0].data.fd != core->listener || ready[0].events != EPOLLIN) {
            PyObject *list = PyList_New(0);
            for (int i = 0; list != NULL && i < n; i++) {
                PyObject *pair = Py_BuildValue("(iI)", ready[i].data.fd, (unsigned)ready[i].events);
                if (pair == NULL || PyList_Append(list, pair) < 0)
                    Py_CLEAR(list);
                Py_XDECREF(pair);
            }
            return list;
        }
        int result = receive(core, &call.notif);
        if (result == ERROR || (result == NOT && PyErr_CheckSignals()))
            return NULL;
        call.started = seconds(CLOCK_REALTIME);
        if (result == DONE) {
            result = serve(core, &call);
            if (result == ERROR)
                return NULL;
            if (result == NOT)
                return call_of(core, &call.notif);
        }
        if (!until) {
            until = call.started + TURN_S;
            if (timeout < 0 || timeout > TURN_S)
                timeout = TURN_S;
        }
        if (call.started >= until || core->lines->seq >= pause_at)
            return PyList_New(0);
    }
}

static PyObject *core_guard(Core *core, PyObject *Py_UNUSED(nothing))
{
    core->guarded = 1;
    Py_RETURN_NONE;
}

static PyObject *core_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    int listener, epoll;
    PyObject *lines, *threads, *plans, *plan, *verdicts, *verdict, *creator, *flush, *call;
    if (!PyArg_ParseTuple(args, "iiO!O!OOO!OOOO", &listener, &epoll, lines_type, &lines, &PyDict_Type, &threads, &plans,
                          &plan, &PyDict_Type, &verdicts, &verdict, &creator, &flush, &call))
        return NULL;
    allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Core *core = (Core *)make(type, 0);
    if (core == NULL)
        return NULL;
    core->listener = listener;
    core->epoll = epoll;
    core->lines = (Lines *)Py_NewRef(lines);
    core->threads = Py_NewRef(threads);
    core->plans = Py_NewRef(plans);
    core->plan = Py_NewRef(plan);
    core->verdicts = Py_NewRef(verdicts);
    core->verdict = Py_NewRef(verdict);
    core->as_creator = Py_NewRef(creator);
    core->flush = Py_NewRef(flush);
    core->call = Py_NewRef(call);
    return (PyObject *)core;
}

static void core_free(Core *core)
{
    PyTypeObject *type = Py_TYPE((PyObject *)core);
    Py_CLEAR(core->lines);
    Py_CLEAR(core->threads);
    Py_CLEAR(core->plans);
    Py_CLEAR(core->plan);
    Py_CLEAR(core->verdicts);
    Py_CLEAR(core->verdict);
    Py_CLEAR(core->as_creator);
    Py_CLEAR(core->flush);
    Py_CLEAR(core->call);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(core);
    Py_DECREF(type);
}

static PyMethodDef core_methods[] = {
    {"turn", (PyCFunction)core_turn, METH_VARARGS, "Serve calls until something is Python's."},
    {"guard", (PyCFunction)core_guard, METH_NOARGS, "Establishes: no receive waits for long."},
    {NULL, NULL, 0, NULL}};
static PyType_Slot core_slots[] = {
    {Py_tp_new, core_new}, {Py_tp_dealloc, core_free}, {Py_tp_methods, core_methods}, {0, NULL}};
static PyType_Spec core_spec = {"agent_safety_layer._core.Core", sizeof(Core), 0, Py_TPFLAGS_DEFAULT, core_slots};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_core", "The loop's routine part.", -1, NULL, NULL, NULL,
                                    NULL, NULL};

PyMODINIT_FUNC PyInit__core(void)
{
    static const struct {
        PyObject **at;
        const char *text;
    } all[] = {{&names.mem, "mem"}, {&names.cache, "cache"}, {&names.exec_pending, "exec_pending"},
               {&names.spans, "spans"}, {&names.span, "span"}, {&names.span_of, "span_of"}, {&names.epoch, "epoch"},
               {&names.number, "number"}, {&names.about, "about"}, {&names.bounded, "bounded"}, {&names.n, "n"},
               {&names.read, "file.read"}, {&names.list, "file.list"}, {&names.write, "file.write"},
               {&names.create, "file.create"}, {&names.delete, "file.delete"}, {&names.meta, "file.meta"}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if ((*all[i].at = PyUnicode_InternFromString(all[i].text)) == NULL)
            return NULL;
    PyObject *made = PyModule_Create(&module);
    PyObject *lines = PyType_FromSpec(&lines_spec), *core = PyType_FromSpec(&core_spec);
    if (made == NULL || lines == NULL || core == NULL || PyModule_AddObjectRef(made, "Lines", lines) < 0 ||
        PyModule_AddObjectRef(made, "Core", core) < 0 || PyModule_AddIntConstant(made, "VERSION", VERSION) < 0)
        return NULL;
    lines_type = (PyTypeObject *)lines;
    return made;
}
