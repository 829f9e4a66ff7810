"""Downloads of public vaults: where they land, what is refused, and what is said without a
network.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import re
import stat
import threading
import time
import zipfile

import huggingface_hub
import pytest

from jaxoff.data import fetch as module
from jaxoff.data import public
from jaxoff.data.fetch import FetchError, archive_name
from jaxoff.data.scenarios import table
from jaxoff.errors import InvalidSetting
from jaxoff.names import Task, UnknownName

TASK = "og_marl:smac_v1/3m/Good"
fetch = functools.partial(module.fetch, unverified=True)


def make_zip(
    file,
    names=("3m.vlt/Good/metadata.json", "3m.vlt/Good/d/0a1b", "3m.vlt/Poor/metadata.json"),
    content=b"x" * 100,
    kind=zipfile.ZIP_STORED,
):
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name in names:
            archive.writestr(name, content)
    return file


@pytest.fixture
def hub(monkeypatch):
    """The hub's download in place of which `make` writes the archive; its calls are recorded."""
    calls = []

    def install(make):
        def download(repo_id, repo_type, filename, revision, local_dir):
            calls.append((repo_id, repo_type, filename, revision))
            return str(make(local_dir / filename))

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        return calls

    return install


def below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_vault_lands_where_the_readers_look(hub, tmp_path):
    calls, said = hub(make_zip), []
    target = fetch(TASK, tmp_path, say=said.append)
    assert target == tmp_path / "og_marl" / "smac_v1" / "3m.vlt"
    assert below(tmp_path) == [
        f"og_marl/smac_v1/3m.vlt/{n}"
        for n in ("Good/d/0a1b", "Good/metadata.json", "Poor/metadata.json")
    ]
    assert calls == [("InstaDeepAI/og-marl", "dataset", "core/smac_v1/3m.zip", "main")]
    assert [line.split()[0] for line in said] == ["downloading", "sha256", "unpacking", "ready:"]


def test_what_is_there_already_is_left_alone_and_said(hub, tmp_path):
    calls, said = hub(make_zip), []
    first = fetch(TASK, tmp_path)
    # one archive has all qualities
    assert fetch("og_marl:smac_v1/3m/Poor", tmp_path, say=said.append) == first
    assert len(calls) == 1 and said == [f"already there: {first}"]


def test_an_archive_put_there_by_hand_is_used_and_kept(hub, tmp_path):
    calls = hub(make_zip)
    archive = make_zip(tmp_path / "downloads" / "core" / "smac_v1" / "3m.zip")
    fetch(TASK, tmp_path)
    assert calls == [] and archive.is_file()


def test_sources_of_prior_work_have_their_own_folder():
    assert (
        archive_name(Task.parse("omiga:mamujoco/2ant/Expert"))
        == "prior_work/omiga/mamujoco/2ant.zip"
    )
    assert (
        archive_name(Task.parse("og_marl:smac_v2/zerg_5_vs_5/Replay"))
        == "core/smac_v2/zerg_5_vs_5.zip"
    )


def test_unknown_tasks_and_sources_without_vaults_are_refused(tmp_path):
    with pytest.raises(UnknownName, match="nearest: og_marl:smac_v1/3m/Good"):
        fetch("og_marl:smac_v1/3m/Goood", tmp_path)
    with pytest.raises(
        FetchError,
        match=(
            r"expected a dataset that is published as a vault \(og_marl, .*\), found source "
            r"'d4rl'"
        ),
    ):
        fetch("d4rl:maze2d/umaze/v1", tmp_path)


# ------------------------------------------------------------------------------------ without a
# network

SENTENCE = (
    r"^core/smac_v1/3m\.zip: could not be downloaded from InstaDeepAI/og-marl \(\w+\); "
    r"download https://huggingface\.co/datasets/"
    r"InstaDeepAI/og-marl/resolve/main/core/smac_v1/3m\.zip by hand, and either put it at "
    r".*/downloads/core/smac_v1/3m\.zip and fetch "
    r"again, or unpack it so that .*/og_marl/smac_v1/3m\.vlt exists$"
)


def test_a_connection_error_says_what_to_do_instead(monkeypatch, tmp_path):
    def fail(**kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(FetchError, match=SENTENCE):
        fetch(TASK, tmp_path)


def test_the_real_download_without_a_network_says_the_same(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # the hub's own switch: nothing is sent
    with pytest.raises(FetchError, match=SENTENCE):
        fetch(TASK, tmp_path)
    assert not (tmp_path / "og_marl").exists()


# ---------------------------------------------------------------------------------------- bad
# archives


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "3m.vlt/../../../escaped",
            r"expected only files below 3m\.vlt, found '3m\.vlt/\.\./\.\./\.\./escaped'; "
            r"nothing was unpacked",
        ),
        ("/escaped", r"found '/escaped'"),
        ("3m.vlt\\..\\escaped", r"found '3m\.vlt\\\\\.\.\\\\escaped'|found '3m\.vlt"),
        ("C:/escaped", r"found 'C:/escaped'"),
        ("8m.vlt/Good/metadata.json", r"found '8m\.vlt/Good/metadata\.json'"),
    ],
)
def test_names_that_leave_the_vault_are_refused(hub, tmp_path, name, message):
    hub(lambda file: make_zip(file, ["3m.vlt/Good/metadata.json", name]))
    with pytest.raises(FetchError, match=message):
        fetch(TASK, tmp_path / "data")
    assert below(tmp_path) == []


def test_links_are_refused(hub, tmp_path):
    def make(file):
        link = zipfile.ZipInfo("3m.vlt/Good/d")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        make_zip(file)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(link, "/etc")
        return file

    hub(make)
    with pytest.raises(
        FetchError, match=r"found the link or device '3m\.vlt/Good/d'; nothing was unpacked"
    ):
        fetch(TASK, tmp_path)
    assert not (tmp_path / "og_marl").exists()


def test_an_archive_that_unpacks_to_too_much_is_refused(hub, tmp_path, monkeypatch):
    hub(make_zip)
    message = r"expected at most 299 bytes when unpacked, found 300; nothing was unpacked"
    with monkeypatch.context() as patch, pytest.raises(FetchError, match=message):
        patch.setattr(module, "LIMIT_BYTES", 299)
        fetch(TASK, tmp_path)
    monkeypatch.setattr(
        module.shutil, "disk_usage", lambda path: module.shutil._ntuple_diskusage(0, 0, 10)
    )
    with pytest.raises(FetchError, match=r"expected 300 bytes of free disk for 3m\.zip, found 10"):
        fetch(TASK, tmp_path)
    # A good archive is kept, and is not downloaded again.
    assert below(tmp_path) == ["downloads/partial/core/smac_v1/3m.zip"]


@pytest.mark.parametrize("keep", [0, 50, 250])
def test_truncated_archives_are_refused_and_leave_nothing(hub, tmp_path, keep):
    def make(file):
        whole = make_zip(file).read_bytes()
        file.write_bytes(whole[:keep])
        return file

    hub(make)
    with pytest.raises(
        FetchError,
        match=(
            r"3m\.zip: expected a whole zip archive, found a damaged one .*; delete it and "
            r"fetch again"
        ),
    ):
        fetch(TASK, tmp_path)
    assert below(tmp_path) == []


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_changed_byte_is_noticed(hub, tmp_path, kind):
    def make(file):
        whole = bytearray(make_zip(file, content=bytes(range(256)), kind=kind).read_bytes())
        whole[60] ^= 255  # inside the first file's content
        file.write_bytes(whole)
        return file

    hub(make)
    with pytest.raises(FetchError, match=r"found a damaged one"):
        fetch(TASK, tmp_path)
    assert below(tmp_path) == []


def test_an_archive_without_a_vault_is_refused(hub, tmp_path):
    hub(lambda file: make_zip(file, ["3m.vlt/readme"]))
    with pytest.raises(
        FetchError, match=r"expected the folder 3m\.vlt with a vault in it, found none"
    ):
        fetch(TASK, tmp_path)


def test_entries_that_a_mac_adds_are_ignored(hub, tmp_path):
    hub(lambda file: make_zip(file, ["3m.vlt/Good/metadata.json", "__MACOSX/._3m.vlt"]))
    assert below(fetch(TASK, tmp_path)) == ["Good/metadata.json"]


# ---------------------------------------------------------------------------------------- checksums


def test_without_a_known_checksum_nothing_is_downloaded_unless_asked_for(hub, tmp_path):
    calls = hub(make_zip)
    with pytest.raises(FetchError, match=r"3m\.zip: expected the sha256 .* or pass --unverified"):
        module.fetch(TASK, tmp_path)
    assert not calls and not list(tmp_path.iterdir())


@pytest.mark.parametrize("by_hand", [False, True])
def test_an_archive_needs_the_checksum_that_is_given(by_hand, hub, tmp_path):
    calls, said = hub(make_zip), []
    archive = make_zip(tmp_path / "3m.zip")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if by_hand:
        make_zip(tmp_path / "data" / "downloads" / "core" / "smac_v1" / "3m.zip")
    with pytest.raises(FetchError, match=rf"expected sha256 {'0' * 64}, found {digest}; nothing"):
        module.fetch(TASK, tmp_path / "data", sha256="0" * 64)
    assert len(below(tmp_path / "data")) == by_hand  # what was put there is not removed
    module.fetch(TASK, tmp_path / "data", sha256=digest.upper(), say=said.append)
    assert f"sha256 {digest}, as expected" in said and len(calls) == 2 * (not by_hand)


def test_a_known_checksum_and_revision_can_not_be_set_aside(hub, tmp_path, monkeypatch):
    calls, name = hub(make_zip), "core/smac_v1/3m.zip"
    known = {"repository": "some/where", "revision": "abc", "sha256": {name: "1" * 64}}
    monkeypatch.setattr(module, "table", lambda _: known)
    with pytest.raises(FetchError, match=f"expected sha256 {'1' * 64}"):
        module.fetch(TASK, tmp_path)
    assert calls == [("some/where", "dataset", name, "abc")]
    with pytest.raises(InvalidSetting, match="--unverified: expected no checksum"):
        fetch(TASK, tmp_path)
    with pytest.raises(InvalidSetting, match=f"--sha256: expected {'1' * 64}"):
        module.fetch(TASK, tmp_path, sha256="2" * 64)


def test_a_checksum_of_another_form_is_refused(tmp_path):
    with pytest.raises(InvalidSetting, match="--sha256: expected 64 hexadecimal digits"):
        module.fetch(TASK, tmp_path, sha256="abc")


def test_shipped_checksums_are_of_archives_that_can_be_fetched():
    known = table("archives")
    names = {
        archive_name(Task.parse(task))
        for source in public.VAULT_SOURCES
        for env in public._FAMILIES[source]
        for task in public.tasks(source, env)
    }
    assert set(known["sha256"]) <= names
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in known["sha256"].values())
    assert not known["sha256"] or re.fullmatch("[0-9a-f]{40}", known["revision"])


# --------------------------------------------------------------------------------- a local server


class Hub(http.server.BaseHTTPRequestHandler):
    """The hub's answers for one file, of which `sent` bytes arrive before the connection breaks."""

    content, sent = b"", 0

    def answer(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "c" * 40)
        self.end_headers()

    do_HEAD = answer

    def do_GET(self):
        self.answer()
        self.wfile.write(self.content[: self.sent])
        self.close_connection = True

    def log_message(self, *args):
        pass


def test_a_download_that_is_cut_does_not_count_as_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(Hub, "content", make_zip(tmp_path / "3m.zip").read_bytes())
    monkeypatch.setattr(Hub, "sent", 200)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", place)
    template = place + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False
    )
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    data = tmp_path / "data"
    try:
        with pytest.raises(FetchError, match="could not be downloaded"):
            fetch(TASK, data)
        assert not list(data.rglob("*.zip")) and not list(data.rglob("*.vlt"))
        monkeypatch.setattr(Hub, "sent", len(Hub.content))
        digest = hashlib.sha256(Hub.content).hexdigest()
        assert below(module.fetch(TASK, data, sha256=digest))[0] == "Good/d/0a1b"
    finally:
        server.shutdown()
        server.server_close()
