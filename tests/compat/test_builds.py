"""Compilers, build tools and databases."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest

from tests.compat.place import Place

pytestmark = pytest.mark.requires("notify", "landlock")


def c_project(folder: pathlib.Path) -> None:
    (folder / "main.c").write_text(
        '#include <stdio.h>\n#include "part.h"\n'
        'int main(int n, char **words) { printf("%d %s\\n", part(n), words[1]); return 3; }\n'
    )
    (folder / "part.h").write_text("int part(int);\n")
    (folder / "part.c").write_text('#include "part.h"\nint part(int n) { return n * 2; }\n')
    (folder / "Makefile").write_text(
        "CFLAGS = -O1 -g0\nall: prog static libpart.so\nprog: main.o part.o\n\t$(CC) -o $@ $^\n"
        "static: main.o libpart.a\n\t$(CC) -static -o $@ $^ || cp prog static\nlibpart.a: part.o\n\tar rcsD $@ $^\n"
        "libpart.so: part.c\n\t$(CC) -shared -fPIC -o $@ $^\n"
        "%.o: %.c part.h\n\t$(CC) $(CFLAGS) -c -o $@ $<\nclean:\n\trm -f *.o prog\n.PHONY: all clean\n"
    )


def test_gcc_and_make(place: Place, needs: Callable[..., None]) -> None:
    needs("gcc", "make", "ar")
    place.same(
        "make -j3 --no-print-directory | sort; ./prog word; echo $?; ./static other; echo $?; touch -d @9999999999 part.h;"
        "make -q 2>/dev/null; echo $?; make clean; ./prog 2>/dev/null; echo $?; gcc -fsyntax-only nothing.c; echo $?",
        c_project,
        CC="gcc",
    )


SQL = """
create table t(a integer primary key, b text); begin; insert into t(b) values('x'),('y'); commit;
with recursive n(i) as (select 1 union all select i+1 from n where i < 5000) insert into t(b) select 'row ' || i from n;
delete from t where a % 3 = 0; create index i on t(b); pragma journal_mode=wal; update t set b = b || '!'; select count(*), max(b) from t;
pragma integrity_check; vacuum; pragma wal_checkpoint(truncate); select sum(a) from t;
"""


def test_sqlite(place: Place) -> None:
    place.same(
        '"$PYTHON" -I - <<\'END\'\nimport sqlite3\ndb = sqlite3.connect("d.db", isolation_level=None)\n'
        f'for line in """{SQL}""".split(";"):\n    print(db.execute(line).fetchall())\n'
        'other = sqlite3.connect("d.db", timeout=0.1)\ndb.execute("begin exclusive")\n'
        "try: other.execute('insert into t(b) values(1)')\nexcept sqlite3.OperationalError as error: print(error)\n"
        "db.execute('rollback'); db.close(); other.close()\nEND"
    )


def test_sqlite_shell(waved: Place, needs: Callable[..., None]) -> None:
    needs("sqlite3")
    waved.same(f"sqlite3 d.db <<'END'\n{SQL}\n.dump t\nEND", volatile=("d.db",))


def npm_project(folder: pathlib.Path) -> None:
    (folder / "package.json").write_text(
        '{"name": "x", "version": "1.0.0", "scripts": {"prebuild": "echo before", "build": "node build.js out"}}'
    )
    (folder / "build.js").write_text(
        """
        const fs = require('fs'), path = require('path'), {execFileSync, fork, spawn} = require('child_process');
        const {Worker, isMainThread} = require('worker_threads'), http = require('http'), net = require('net');
        fs.mkdirSync(process.argv[2] + '/a/b', {recursive: true}); fs.writeFileSync('out/a/f', 'x'.repeat(5000)); fs.cpSync('out/a', 'out/c', {recursive: true});
        fs.renameSync('out/c/f', 'out/c/g'); fs.symlinkSync('g', 'out/c/l'); fs.rmSync('out/a', {recursive: true}); console.log(fs.readdirSync('out', {recursive: true}).sort());
        console.log(execFileSync('echo', ['sub']).toString(), fs.realpathSync('out/c/l') === path.resolve('out/c/g'));
        const server = http.createServer((q, r) => r.end('served ' + q.url)).listen(0, '127.0.0.1', () => {
          http.get({port: server.address().port, path: '/here', host: '127.0.0.1', agent: false}, (r) => r.on('data', (d) => { console.log(String(d)); server.close(unix); }));
        });
        const unix = () => { const s = net.createServer((c) => c.pipe(c)).listen('out/sock', () => { const c = net.connect('out/sock', () => c.write('echo')); c.on('data', (d) => { console.log(String(d)); c.end(); s.close(worker); }); }); };
        const worker = () => { const w = new Worker("require('worker_threads').parentPort.postMessage(require('fs').readFileSync('package.json').length)", {eval: true}); w.on('message', (n) => { console.log(n); fs.promises.readFile('build.js').then(() => watch()); }); };
        const watch = () => { const w = fs.watch('out', () => { w.close(); console.log('watched'); }); fs.writeFileSync('out/new', ''); };
        """
    )


def test_npm_script(place: Place, needs: Callable[..., None]) -> None:
    needs("node", "npm")
    place.same(
        "npm run --silent --offline --no-update-notifier build",
        npm_project,
        refused=("file.read */.npmrc *",),  # it may hold tokens
        npm_config_cache=str(place.ws / "cache"),
        NO_COLOR="1",
    )
