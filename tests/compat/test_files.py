"""coreutils and archivers: what they print and what they leave behind."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

import pytest

from tests.compat.place import Place

pytestmark = pytest.mark.requires("notify", "landlock")


def seed(folder: pathlib.Path) -> None:
    """A small project: folders, links of both kinds, odd names, modes, times."""
    (folder / "src/deep/er").mkdir(parents=True)
    (folder / "src/a.txt").write_text("alpha\n" * 50)
    (folder / "src/deep/b.bin").write_bytes(bytes(range(256)) * 40)
    (folder / "src/deep/er/naïve\n name").write_text("odd\n")
    (folder / "src/run.sh").write_text("#!/bin/sh\necho ran $0 $#\n")
    (folder / "src/run.sh").chmod(0o750)
    (folder / "src/link").symlink_to("a.txt")
    (folder / "src/dangling").symlink_to("nowhere/at/all")
    (folder / "src/up").symlink_to("../src/deep")
    os.link(folder / "src/a.txt", folder / "src/hard")
    os.mkfifo(folder / "src/fifo", 0o640)
    (folder / "src/secret").write_text("mine")
    (folder / "src/secret").chmod(0o600)
    (folder / "other").mkdir()
    for path in sorted(folder.rglob("*")):
        os.utime(path, ns=(10**18, 10**18 + 123456789), follow_symlinks=False)


COPIES = r"""
cp -a src copy; cp -r --no-preserve=mode src/deep plain; cp -l src/a.txt hardcopy; cp -s "$PWD/src/a.txt" soft
cp --sparse=always src/deep/b.bin sparse; cp -n src/a.txt src/secret; cp -u src/a.txt newer; cp -b src/a.txt newer
cp --parents src/deep/er/* other; cp src/a.txt src/deep/b.bin other; cp -p src/run.sh other/kept
cp nothing there; echo $?; cp src other; echo $?; cp src/a.txt src/a.txt; echo $?
install -m 640 -D src/a.txt inst/alled/file; install -d -m 711 inst/folder; install -s /bin/true inst/true 2>/dev/null
dd if=src/deep/b.bin of=part bs=100 count=7 skip=3 status=none; truncate -s 4000 part; cat src/a.txt > out; cat src/a.txt >> out
ls -l --time-style=+%s src/run.sh copy/run.sh copy/link other/kept | sed 's/ \+/ /g'
cmp src/deep/b.bin sparse && diff -r src/deep copy/deep && echo alike
tee one two < src/a.txt > three; split -l 20 src/a.txt piece.; sort -r src/a.txt -o sorted; sed -i s/alpha/beta/ out; wc out piece.*
"""

NAMES = r"""
mv src/a.txt other/; mv src/deep other/; mv -T src/run.sh renamed; mv -n renamed src/secret; mv -b src/secret src/link; ls src
mv other moved; mv moved/deep . ; mv deep/er src/; mv nothing x; echo $?; mv src src/er; echo $?; mv moved/a.txt "$PWD/abs"
ln -s target sym; ln -sf other sym; ln abs again; ln -sr abs src/rel; ln abs again; echo $?; readlink -f src/rel | sed "s,$PWD,,"; realpath --relative-to=. src/rel
mkdir -p a/b/c a/b/d; mkdir a; echo $?; mkdir -m 1777 sticky; rmdir a/b/c; rmdir a; echo $?; rmdir -p a/b/d; rm abs; rm nothing; echo $?; rm -f nothing; rm src; echo $?
mkfifo -m 600 pipe; (echo through > pipe &); cat pipe; rm -rf moved; unlink again; mktemp -p . XXXXXX | wc -c; rm -f ./??????
mkdir -p full/of/things; touch full/of/things/{1..30}; rm -r full; find . -type d | sort
"""

METADATA = r"""
chmod -R u=rwX,go=rX src; chmod 4711 src/run.sh; chmod g+s src/deep; chmod -x src/run.sh; chmod 000 src/secret; chmod 777 src/dangling; echo $?
touch -d '2001-02-03 04:05:06.7 UTC' src/a.txt; touch -h -d @1 src/link; touch -r src/a.txt ref; touch -a -d @5 ref; touch -c nope; touch new
touch -d @99 other/..; stat -c '%n %a %Y %F %s %h' src/* ref; stat -c %X ref src/a.txt
chown "$(id -u):$(id -g)" src/a.txt && chown -h "$(id -u)" src/link && chgrp -R "$(id -g)" src && echo owned
chown -R 12345 src/deep; echo $?; stat -c %u src/deep
umask 077; touch private; mkdir hidden; umask 0; touch public; mkdir open; (umask 027; : > between; mkdir betwixt)
setfattr -n user.colour -v blue src/a.txt 2>/dev/null && getfattr -n user.colour src/a.txt 2>/dev/null
test -r src/a.txt && test -w src/a.txt && test ! -x src/run.sh && test -p src/fifo && test -L src/up && test -d src/up && echo tested
find . -newermt '2010-01-01' -name ref; find src -perm -g+r -type f | sort; find . -size +1k | sort; find -L src -name '*.bin' | sort
find src -name '*.txt' -exec sha256sum {} +; find src -type l -printf '%p -> %l\n' | sort; find src -depth -name er -execdir pwd \; | sed "s,$PWD,,"
find . -name 'nai*' -delete; find src -type f -print0 | xargs -0 -n1 -P4 md5sum | sort; du -s --apparent-size src/deep | cut -f2; df . >/dev/null && echo df
"""

ARCHIVES = r"""
tar -C src -cf all.tar --sort=name . && tar -tvf all.tar --full-time | sed 's/ \+/ /g'; mkdir x y; tar -xpf all.tar -C x; tar -cz src | tar -xz -C y --strip-components=1
diff -r --no-dereference -x fifo src x && diff -r --no-dereference -x fifo x y && echo alike; rm all.tar
gzip -k9n src/a.txt && gzip -t src/a.txt.gz && gunzip -c src/a.txt.gz | cmp - src/a.txt && echo zipped; xz -k src/deep/b.bin && xz -dc src/deep/b.bin.xz | cmp - src/deep/b.bin
"$PYTHON" -I -m zipfile -c z.zip src/a.txt src/deep && "$PYTHON" -I -m zipfile -e z.zip z && "$PYTHON" -I -m zipfile -l z.zip | grep -c er; rm z.zip
"""

SCRIPTS = {"copies": COPIES, "names": NAMES, "metadata": METADATA, "archives": ARCHIVES}


@pytest.mark.parametrize("name", SCRIPTS)
def test_coreutils(name: str, place: Place) -> None:
    place.same(SCRIPTS[name], seed)


def test_rsync(waved: Place, needs: Callable[..., None]) -> None:
    needs("rsync")
    waved.same(
        "rsync -aH --itemize-changes src/ copy; touch src/more; rsync -aH --delete -i src/ copy; rsync -a --inplace src copy",
        seed,
    )


def test_shell_plumbing(place: Place) -> None:
    place.same(
        r"""
        exec 3<> both; echo in >&3; exec 3>&-; cat < both; set -C; echo x > both; echo $?; echo y >| both; cat both
        cat <<< here; cat <(echo sub) <(echo stitution); echo tee | tee >(cat > teed) > /dev/null; sleep 0.1; cat teed
        trap 'echo term' TERM; kill -TERM $$; for s in KILL PIPE USR1; do "$PYTHON" -I -S -c "import os, sys; sys.exit(os.waitstatus_to_exitcode(os.system('kill -$s \$\$')) + 100)"; echo $?; done; false | true; echo "${PIPESTATUS[@]}"
        ulimit -n 100; ulimit -n; (ulimit -f 1; head -c 4000 /dev/zero > big) 2>/dev/null; wc -c < big
        cd src; cd -P up; basename "$PWD"; cd ..; cd ../..; echo * | tr ' ' '\n' | wc -l; echo src/{a,b}* src/**/*.bin
        cat /proc/self/status | grep -c Name; ls /proc/self/fd | wc -l; cat /dev/null; echo dev > /dev/stdout; echo err > /dev/stderr; : > /dev/null; head -c 10 /dev/urandom | wc -c
        echo /dev/fd/0 | cat /dev/stdin; readlink /proc/self/cwd | sed "s,$PWD,,"; [ /proc/self/exe -ef /bin/bash ] ; echo $?
        nohup sh -c 'echo nohupped' 2>/dev/null; nice -n 5 nice; timeout 0.2 sleep 5; echo $?; env -i A=b env; setsid sh -c 'echo session'; wait
        chmod u-w src 2>/dev/null; nproc > /dev/null; id -u; umask; date -u -d @0 +%F; hostname > /dev/null; uname -s; ls nothing; echo $?; nosuchcommand; echo $?; ./src; echo $?
        """,
        seed,
        may_fail=True,
    )
