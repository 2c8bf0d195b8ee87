"""git's everyday commands."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.compat.place import Place

pytestmark = pytest.mark.requires("notify", "landlock")

ENVIRONMENT = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_EDITOR": "true",
    "GIT_PAGER": "cat",
}
# These hold the times and inodes of what is checked out; FETCH_HEAD and the like only names.
VOLATILE = ("*/index", ".git/index", "*/commit-graph*", "*.idx", "*.pack", "*.rev", "*.bitmap")

EVERYDAY = r"""
git init -q -b main repo && cd repo && git config pack.threads 1 && mkdir src && seq 1 300 > src/numbers && echo one > file && git add -A && git commit -qm first && git status --short --branch
git switch -qc side && seq 1 301 > src/numbers && git mv file renamed && git commit -qam side && git switch -q main
echo two >> file && git diff --stat && git commit -qam second && git merge -q side -m merged && git log --oneline --graph && ls
git switch -qc topic main~1 && echo t > topic && git add topic && git commit -qm topic && git rebase -q main && git log --format=%s -3
echo dirty >> topic && echo new > untracked && git stash -uq && git status --short && git stash pop -q && git status --short && git checkout -q . && git clean -fdq
git worktree add -q ../tree main && (cd ../tree && echo w > w && git add w && git commit -qm worktree) && git worktree list | sed "s,$OLDPWD,,;s,$PWD,,;s,.*/,," && git worktree remove ../tree
git tag -a v1 -m v1 && git branch -d side -q && git cherry-pick -x main >/dev/null && git revert --no-edit HEAD >/dev/null; git log --format=%s -2; git reset -q --hard HEAD~1
git gc -q --prune=now && git fsck --full 2>&1 && git repack -adq && git count-objects -v | head -1 && git archive HEAD | tar -t && git blame -s src/numbers | tail -1 && git grep -c 30 && git bundle create -q ../b.bundle --all
cd .. && git clone -q repo local && git clone -q --no-local --depth 1 "file://$PWD/repo" shallow && git clone -q --bare repo bare.git && git clone -q b.bundle bundled -b topic
cd local && git remote -v | sed "s,/[^ ]*/,," && echo more >> src/numbers && git commit -qam more && git push -q ../bare.git HEAD:refs/heads/pushed && git pull -q --ff-only ../repo main 2>&1; git fetch -q --all ; git apply --check nothing; echo $?
git --no-pager log --stat --format=%H -1; git rev-parse HEAD main@{0}; git show-ref | wc -l; git bisect start -q HEAD HEAD~1 >/dev/null; git bisect reset -q; git notes add -m note; git sparse-checkout set src 2>&1; ls
"""


def test_everyday_commands(place: Place, needs: Callable[..., None]) -> None:
    needs("git", "tar")
    place.same(EVERYDAY, volatile=VOLATILE, may_fail=True, **ENVIRONMENT)
