"""Python's own ways of being many: processes, threads, event loops; and its packaging."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest

from tests.compat.place import Place

pytestmark = pytest.mark.requires("notify", "landlock")

BACKEND = """
import base64, hashlib, os, zipfile
def build_wheel(directory, settings=None, metadata=None):
    name = "demo-1.0-py3-none-any.whl"
    files = {
        "demo.py": open("demo.py").read(),
        "demo-1.0.dist-info/METADATA": "Metadata-Version: 2.1\\nName: demo\\nVersion: 1.0\\n",
        "demo-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        "demo-1.0.dist-info/entry_points.txt": "[console_scripts]\\ndemo = demo:main\\n",
    }
    record = "".join(f"{path},,\\n" for path in files) + "demo-1.0.dist-info/RECORD,,\\n"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        for path, text in {**files, "demo-1.0.dist-info/RECORD": record}.items():
            wheel.writestr(zipfile.ZipInfo(path), text)
    return name
"""


def project(folder: pathlib.Path) -> None:
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "demo"\nversion = "1.0"\n[build-system]\nrequires = []\nbuild-backend = "backend"\n'
        'backend-path = ["."]\n'
    )
    (folder / "backend.py").write_text(BACKEND)
    (folder / "demo.py").write_text("def main():\n    print('installed')\n")


@pytest.mark.slow
def test_venv_and_pip(place: Place) -> None:
    pytest.importorskip("ensurepip")
    place.same(
        '"$PYTHON" -I -m venv v && v/bin/pip -q wheel --no-index --no-build-isolation -w dist . && ls dist'
        "&& v/bin/pip -q install --no-index --find-links dist demo && v/bin/demo && v/bin/pip list --format=freeze | grep demo"
        "&& v/bin/pip -q uninstall -y demo; v/bin/demo; echo $?; v/bin/pip install --no-index nothing-of-that-name >/dev/null 2>&1; echo $?",
        project,
        volatile=("*.pyc", "*/RECORD", "*.whl"),
        refused=("*/.rustup *",),  # pip asks for the version of rustc, which may be rustup's
        timeout_s=180,
        PIP_NO_INPUT="1",
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        PIP_ROOT_USER_ACTION="ignore",
    )


def test_pip_builds_and_installs(waved: Place) -> None:
    pytest.importorskip("pip")
    waved.same(
        '"$PYTHON" -m pip -q wheel --no-index --no-build-isolation -w dist . '
        '&& "$PYTHON" -m pip -q install --no-index --target lib --find-links dist demo && ls lib '
        '&& PYTHONPATH=lib "$PYTHON" -c "import demo; demo.main()"',
        project,
        volatile=("*.pyc", "*/RECORD", "*.whl"),
        refused=("*/.rustup *",),  # pip asks for the version of rustc, which may be rustup's
        PIP_NO_INPUT="1",
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        PIP_ROOT_USER_ACTION="ignore",
    )


def program(text: str) -> Callable[[pathlib.Path], object]:
    return lambda folder: (folder / "program.py").write_text(text)


MANY = """
import concurrent.futures, hashlib, multiprocessing, os, queue, sys, threading
from multiprocessing import shared_memory

def work(n):
    with open(f"made-{n}", "w") as file:
        file.write(str(n) * 100)
    return hashlib.sha256(open(f"made-{n}", "rb").read()).hexdigest()[:8]

def bump(counter, lock, shared):
    for _ in range(50):
        with lock:
            counter.value += 1
    shared.put(os.getpid() > 0)

def tell(connection):
    connection.send(connection.recv() * 2)

if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        with context.Pool(3) as pool:
            print(method, pool.map(work, range(8)))
        counter, lock, shared = context.Value("i", 0, lock=False), context.Lock(), context.Queue()
        workers = [context.Process(target=bump, args=(counter, lock, shared)) for _ in range(3)]
        [worker.start() for worker in workers]; [shared.get(timeout=20) for _ in workers]; [worker.join() for worker in workers]
        here, there = context.Pipe()
        worker = context.Process(target=tell, args=(there,)); worker.start(); here.send(21)
        print(counter.value, here.recv(), [worker.exitcode for worker in workers]); worker.join()
    block = shared_memory.SharedMemory(create=True, size=1000)
    other = shared_memory.SharedMemory(block.name); block.buf[0] = 7; print(other.buf[0]); other.close(); block.close(); block.unlink()
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        print(list(threads.map(work, range(40)))[-1], threading.active_count())
    with concurrent.futures.ProcessPoolExecutor(2) as processes:
        print(list(processes.map(work, range(4))))
    manager = multiprocessing.Manager(); shared = manager.dict(a=1); shared["b"] = 2; print(dict(shared)); manager.shutdown()
"""

MEMORY = """
import ctypes, fcntl, mmap, os, select, signal, socket, sys, tempfile, time
libc = ctypes.CDLL(None, use_errno=True)
fd = os.memfd_create("x", os.MFD_ALLOW_SEALING); os.write(fd, b"memory"); again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY); print(os.read(again, 9))
again = os.open(f"/dev/fd/{fd}", os.O_RDWR); os.write(again, b"M"); print(os.pread(fd, 9, 0)); fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
reader, writer = os.pipe(); again = os.open(f"/proc/self/fd/{writer}", os.O_WRONLY); os.write(again, b"pipe"); print(os.read(reader, 9))
for name in (f"/proc/self/fd/{socket.socketpair()[0].fileno()}", f"/proc/{os.getpid()}/fd/77", "/dev/fd/77"):
    try: os.open(name, os.O_RDWR)
    except OSError as error: print(error.errno)
with tempfile.TemporaryFile(dir=".") as file:
    file.write(b"nameless"); file.flush(); again = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY); print(os.read(again, 9))
with open("file", "w+b") as file:
    file.truncate(8192); area = mmap.mmap(file.fileno(), 0); area[5000:5003] = b"abc"; area.flush(); print(os.pread(file.fileno(), 3, 5000))
    os.unlink("file"); again = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDWR); print(os.pread(again, 3, 5000), os.readlink(f"/proc/self/fd/{again}")[-9:])
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB); fcntl.flock(again, fcntl.LOCK_SH | fcntl.LOCK_NB); print(os.copy_file_range(again, file.fileno(), 10, 0, 20))
fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o640); os.write(fd, b"later"); libc.linkat(-100, b"/proc/self/fd/%d" % fd, -100, b"linked", 0x400); print(open("linked").read())
here = os.open(".", os.O_PATH | os.O_DIRECTORY); os.mkdir("below", dir_fd=here); fd = os.open("below/f", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o604, dir_fd=here); os.fchmod(fd, 0o640)
os.rename("below/f", "g", src_dir_fd=here, dst_dir_fd=here); os.chdir("below"); os.rmdir("../below")
for act in (lambda: open("x", "w"), os.getcwd):
    try: print(act())
    except OSError as error: print(error.errno, error.filename)
os.fchdir(here); print(sorted(os.listdir("."))); print(os.stat("g", dir_fd=here).st_mode, os.access("g", os.X_OK))
signal.signal(signal.SIGALRM, lambda *_: print("alarm")); signal.setitimer(signal.ITIMER_REAL, 0.05); os.mkfifo("fifo")
class Enough(Exception): pass
def stop(*_): raise Enough
signal.signal(signal.SIGALRM, stop); signal.setitimer(signal.ITIMER_REAL, 0.1)
try: open("fifo")
except Enough: print("interrupted")
signal.setitimer(signal.ITIMER_REAL, 0); print(select.select([0], [], [], 0.1)[0] == [0])
print(libc.prctl(15, b"renamed", 0, 0, 0), open("/proc/self/comm").read())
pid = os.fork()
if pid == 0: os.setsid(); os.execv("/bin/sh", ["sh", "-c", "echo child; exit 4"])
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), os.sched_getaffinity(0) == os.sched_getaffinity(os.getpid()), os.getpriority(os.PRIO_PROCESS, 0)); os.sched_yield()
fd = os.memfd_create("program"); os.write(fd, open("/bin/echo", "rb").read()); sys.stdout.flush(); os.execve(fd, ["echo", "from", "memory"], {})
"""


@pytest.mark.parametrize("text", [MANY, MEMORY], ids=["many", "memory"])
def test_program(text: str, place: Place) -> None:
    place.same('"$PYTHON" program.py', program(text))
