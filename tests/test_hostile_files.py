"""Files that ask for too much, lead elsewhere or are no files: refused by name, at once, and
without memory for what they claim.
"""

from __future__ import annotations

import io
import pickle
import resource
import signal
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from jaxoff.data import fetch
from jaxoff.data.convert import alberdice, cfcql, d4rl, hdf5, omar, omiga
from jaxoff.data.convert.common import Slots, Steps, pad, read_json
from jaxoff.envs.mpe.prey import load_prey
from jaxoff.errors import InvalidFile, JaxoffError
from jaxoff.numpy_file import read_npy, read_npz
from jaxoff.torch_file import read_torch
from jaxoff.types import EnvSpec

MORE_BYTES, LIMIT_S = 2**30, 10
SPEC = EnvSpec("toy", 2, 3, 4, 5, True, 3)


@pytest.fixture(autouse=True)
def small_and_quick():
    """Ends a test that allocates a gigabyte, or takes ten seconds."""

    def stop(*_):
        raise TimeoutError(f"more than {LIMIT_S} s")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MORE_BYTES, before[1]))
    handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, handler)
    resource.setrlimit(resource.RLIMIT_AS, before)


def refused(call, file, message):
    """The error of a call, which is one line that names the file."""
    with pytest.raises(JaxoffError, match=message) as error:
        call(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------- torch


def twice(value, depth=40):
    """A container that holds itself twice, 40 deep: 2**40 items for one that goes through it."""
    for _ in range(depth):
        value = type(value)([value, value])
    return value


def part(value):
    """A pickle of protocol 2 without its first opcode and its last."""
    return pickle.dumps(value, 2)[2:-1]


NAME = struct.pack("<I", 7) + b"storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpu"
TORCH = {
    "a list that holds itself twice": (part(twice([])), "65,536 bytes and items, found shared"),
    "a tuple that does": (part(twice(())), "found shared parts"),
    "a key that does": (b"}" + part(twice(())) + b"K\1s", "keys that are texts or numbers"),
    "keys that do": (b"}(" + part(twice(())) + b"K\1u", "keys that are texts or numbers"),
    "keys of a named dictionary": (
        b"ccollections\nOrderedDict\n](" + part(twice(())) + b"K\1\x86e\x85R",
        "keys that are texts or numbers",
    ),
    "a set": (b"\x8f(" + part(twice(())) + b"\x90", "opcodes that torch writes, found 0x8f"),
    "a large index of the memo": (b"]r\xff\xff\xff\x7f", "found 0x72 at byte 3"),
    "a large storage": (
        b"(X" + NAME + b"\x8a\5" + (10**11).to_bytes(5, "little") + b"tQ",
        "storages within the file, found one of 100,000,000,000 numbers",
    ),
    "a negative storage": (b"(X" + NAME + b"J\xff\xff\xff\xfftQ", "storages within the file"),
    "an array a thousand times": (part([np.zeros(2**15, np.uint8)] * 1000), "shared parts"),
    "a loop": (b"]q\0h\0a", "do not hold themselves"),
    "depth": (b"]" * 100_000 + b"a" * 99_999, "damaged one"),
    "a text beyond its end": (b"X\xff\xff\xff\xff", "found the end at"),
    "opcodes of text": (b"I1\n", "found 0x49 at byte 2"),
    "nothing": (b"", "damaged one"),
}


@pytest.mark.parametrize("case", TORCH)
def test_torch_files_that_ask_for_too_much(case, tmp_path):
    content, message = TORCH[case]
    file = tmp_path / "x.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\2" + content + b".")
        archive.writestr("archive/data/0", b"abcd")
    refused(read_torch, file, message)


def test_shared_parts_stay_shared(tmp_path):
    file = tmp_path / "x.pt"
    shared = [1.0, [2.0, "x"]]
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": shared, "b": (shared, shared)}, 2))
    found = read_torch(file)
    assert found == {"a": shared, "b": (shared, shared)}
    assert found["a"] is found["b"][0] is found["b"][1]


def test_a_process_of_its_own_ends_at_once_with_one_of_542_bytes(tmp_path):
    file = tmp_path / "x.pt"
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    head = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2)
    file.write_bytes(magic + head + pickle.dumps(twice([]), 2) + pickle.dumps([], 2))
    code = "import sys; from jaxoff.torch_file import read_torch; read_torch(sys.argv[1])"
    command = [sys.executable, "-c", code, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert file.stat().st_size < 600 and "InvalidFile: " in done.stderr.splitlines()[-1]


# --------------------------------------------------------------------------------- .npy and .npz


def header(shape, dtype="<f8", fortran=False):
    out = io.BytesIO()
    about = {"descr": dtype, "fortran_order": fortran, "shape": shape}
    np.lib.format.write_array_header_1_0(out, about)
    return out.getvalue()


NPY = {
    "terabytes": (header((2**39,)), r"header of shape \(549755813888,\) and float64, 4,398,046"),
    "less than its header": (header((2, 3)) + bytes(40), "48 bytes, before 40 bytes"),
    "more than its header": (header((2, 3)) + bytes(56), "48 bytes, before 56 bytes"),
    "a negative size": (header((-1, -6)) + bytes(48), "sizes of at least 0"),
    "objects": (header((1,), "|O") + pickle.dumps([1]), "expected no objects"),
    "version 3": (b"\x93NUMPY\3\0" + header((1,))[8:], r"found \(3, 0\)"),
    "no header": (b"\x93NUMPY\1\0\xff\xff{", "damaged file"),
    "depth": (b"\x93NUMPY\1\0" + struct.pack("<H", 9000) + b"(" * 9000, "damaged file"),
    "a text": (b"hello\n\xe9", "damaged file"),
    "nothing": (b"", "damaged file"),
}


@pytest.mark.parametrize("case", NPY)
def test_npy_files_that_claim_what_is_not_there(case, tmp_path):
    content, message = NPY[case]
    (tmp_path / "x.npy").write_bytes(content)
    refused(read_npy, tmp_path / "x.npy", message)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("one.npy", content)
    refused(read_npz, tmp_path / "x.npz", message)


@pytest.mark.parametrize("order", "CF")
def test_whole_arrays_are_read_as_numpy_reads_them(order, tmp_path):
    arrays = {
        "reals": np.arange(6, dtype=">f4").reshape((2, 3), order=order),
        "none": np.zeros((0, 3), np.int8),
        "one": np.array("text"),
    }
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    found = read_npz(tmp_path / "x.npz")
    for name, array in arrays.items():
        np.save(tmp_path / "x.npy", array)
        for value in (found[name], read_npy(tmp_path / "x.npy")):
            np.testing.assert_array_equal(value, array)
            assert (value.dtype, value.shape) == (array.dtype, array.shape)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_npz_archives_of_another_kind_are_refused(tmp_path):
    for names in (["a.npy"], ["a.npy", "a.npy"], ["a.txt"]):
        file = tmp_path / f"{len(names)}.npz"
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                archive.writestr(name, header((1,)) + bytes(8))
        if names == ["a.npy"]:
            encrypt(file)
        refused(read_npz, file, f"different names in .npy, found '{names[0]}'")
        refused(load_prey, file, "not an .npz file of a prey network")


def encrypt(file):
    """Set the bit of encryption of every member."""
    data = bytearray(file.read_bytes())
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = data.find(mark)
        while at >= 0:
            data[at + place] |= 1
            at = data.find(mark, at + 1)
    file.write_bytes(data)


# ----------------------------------------------------------------------------------------- HDF5


def external_link(out, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["a"] = [1.0]
    out["a"] = h5py.ExternalLink(str(folder / "other.h5"), "a")


def soft_link_beyond(out, folder):
    external_link(out.create_group("g"), folder)
    out["a"] = h5py.SoftLink("/g/a")


def external_storage(out, folder):
    (folder / "secret").write_bytes(bytes(80))
    out.create_dataset("a", (10,), "f8", external=[(folder / "secret", 0, 80)])


def virtual(out, folder):
    layout = h5py.VirtualLayout((10,), "f8")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "a", (10,))
    out.create_virtual_dataset("a", layout)


def compressed(out, folder):
    out.create_dataset("a", data=np.zeros(2**20), chunks=(2**17,), compression="gzip")


HDF5 = {
    "an external link": (external_link, "'a' is a soft or external link"),
    "a soft link that leaves the file": (soft_link_beyond, "'a' is a soft or external link"),
    "external storage": (external_storage, "found external storage"),
    "a virtual dataset": (virtual, "found a virtual dataset"),
    "80 GB that were never written": (
        lambda out, _: out.create_dataset("a", (10**10,), "f8", chunks=(10**6,)),
        "80,000,000,000 bytes .*found a part of them, 0 bytes in the file",
    ),
    "80 GB without chunks": (lambda out, _: out.create_dataset("a", (10**10,), "f8"), "0 bytes in"),
    "80 GB of one chunk": (
        lambda out, _: out.create_dataset("a", (10**10,), "u1", chunks=(10**9,)),
        "found a part of them",
    ),
    "a thousand bytes for one": (compressed, "at most 500 bytes for each stored one, found 8,388"),
    "texts of any length": (
        lambda out, _: out.create_dataset("a", data=["x"], dtype=h5py.string_dtype()),
        "expected an array of numbers, found object",
    ),
    "no numbers": (lambda out, _: out.create_dataset("a", data=h5py.Empty("f8")), "an array of"),
    "a group": (lambda out, _: out.create_group("a"), "found no a"),
}


@pytest.mark.parametrize("case", HDF5)
def test_hdf5_files_that_lead_elsewhere_or_claim_too_much(case, tmp_path, monkeypatch):
    write, message = HDF5[case]
    monkeypatch.setattr(hdf5, "_LARGE_BYTES", 2**16)
    with h5py.File(tmp_path / "x.h5", "w") as out:
        write(out, tmp_path)
    refused(lambda file: hdf5.read_hdf5(file, ["a"]), tmp_path / "x.h5", message)


def test_an_hdf5_file_that_is_larger_than_the_memory(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "x.h5", "w") as out:
        out["a"] = np.zeros(1000)
    monkeypatch.setattr("jaxoff.runtime.free_memory_bytes", lambda: 7999)
    read = lambda file: hdf5.read_hdf5(file, ["a"])
    refused(read, tmp_path / "x.h5", "dataset 'a': .* 7,999 bytes, the free memory.* 8,000$")


# ------------------------------------------------------------------------------------- archives


def member(name, content=b"x", kind=0o100644, method=zipfile.ZIP_STORED):
    item = zipfile.ZipInfo(name)
    item.external_attr, item.compress_type = kind << 16, method
    return item, content


INDEX = "3m.vlt/Good/metadata.json"
ARCHIVES = {
    "a name of 300 letters": ([member(f"3m.vlt/{'n' * 300}")], "names of at most 255 bytes"),
    "a path of 5000 letters": ([member("3m.vlt/" + "n/" * 2500 + "n")], "names of at most 255"),
    "an absolute name": ([member("/elsewhere/x")], "only files below 3m.vlt, found '/elsewhere/x'"),
    "a name that leaves": ([member("3m.vlt/../../x")], r"only files below .*'3m.vlt/../../x'"),
    "a name of two lines": ([member("x\ny")], r"found 'x\\ny'"),
    "a link": ([member("3m.vlt/Good/d", b"/etc", 0o120777)], "the link or device"),
    "a device": ([member("3m.vlt/Good/d", kind=0o020666)], "the link or device"),
    "a name twice": ([member(INDEX)], f"each name once, found '{INDEX}' of several"),
    "a name twice but for a dot": ([member("3m.vlt/Good/./metadata.json")], "each name once"),
    "a file and a folder": ([member(f"{INDEX}/x")], f"found '{INDEX}' of a file and a folder"),
    "a file and a folder's entry": ([member(f"{INDEX}/", b"")], "each name once"),
    "another method": ([member("3m.vlt/x", method=zipfile.ZIP_LZMA)], "stored or deflated"),
    "a bomb": (
        [member("3m.vlt/x", bytes(2**21), method=zipfile.ZIP_DEFLATED)],
        "expected at most .* bytes when unpacked, found 2,097,15",
    ),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", [*ARCHIVES, "an encrypted member", "nothing"])
def test_archives_that_would_not_be_plain_files_below_one_folder(case, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_SMALL_BYTES", 2**10)
    members, message = ARCHIVES.get(case, ([], "encrypted, found '3m"))
    file = tmp_path / "downloads" / "core" / "smac_v1" / "3m.zip"
    file.parent.mkdir(parents=True)
    with zipfile.ZipFile(file, "w") as archive:
        for item, content in [member(INDEX), *members]:
            archive.writestr(item, content)
    if case == "an encrypted member":
        encrypt(file)
    if case == "nothing":
        file.write_bytes(b"")
        message = "a whole zip archive"
    get = lambda _: fetch.fetch("og_marl:smac_v1/3m/Good", tmp_path, unverified=True)
    refused(get, file, message)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


# --------------------------------------------------------------------------- JSON, and no files

JSON = {
    "depth": b"[" * 100_000,
    "depth that ends": b"[" * 100_000 + b"]" * 100_000,
    "NaN": b'{"episodes_in_buffer": NaN}',
    "Infinity": b'{"episodes_in_buffer": -Infinity}',
    "Latin letters": '{"é": 1}'.encode("latin-1"),
    "nothing": b"",
}


@pytest.mark.parametrize("case", JSON)
def test_json_that_is_none(case, tmp_path):
    (tmp_path / "meta.json").write_bytes(JSON[case])
    refused(read_json, tmp_path / "meta.json", "expected JSON, found a damaged file")


@pytest.mark.parametrize("content", ["[]", "1", "{}", '{"episodes_in_buffer": true}'])
def test_json_of_another_form_is_named(content, tmp_path):
    file = tmp_path / "meta.json"
    file.write_text(content)
    refused(alberdice._episodes_in, file, "an integer 'episodes_in_buffer', found")


READERS = {
    "torch": read_torch,
    "npy": read_npy,
    "npz": read_npz,
    "json": read_json,
    "cfcql": lambda file: cfcql.read(file, SPEC),
    "d4rl": lambda file: d4rl.read_maze2d(file, SPEC),
    "minari": lambda file: d4rl.read_minari(file, SPEC),
    "omiga": lambda file: omiga.read_mujoco(file, SPEC),
}
FOLDERS = {
    "omar": lambda folder: omar.read(folder, SPEC, steps=3, states=False),
    "omiga": lambda folder: omiga.read_smac(folder, SPEC),
}


@pytest.mark.parametrize("name", READERS)
def test_a_folder_in_place_of_a_file_is_named(name, tmp_path):
    refused(READERS[name], tmp_path, "expected an? .*, found a folder")
    with pytest.raises(FileNotFoundError, match=r"absent: expected an? .*, found none"):
        READERS[name](tmp_path / "absent")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_in_place_of_a_folder_is_named(name, tmp_path):
    (tmp_path / "x").touch()
    refused(FOLDERS[name], tmp_path / "x", "expected a folder .*, found a file")


def test_one_long_episode_among_a_million_short_ones_is_refused():
    lengths = np.array([10**6] * 2 + [1] * 10**6)
    rows, ends = np.zeros((int(lengths.sum()), 1), np.uint8), np.zeros((len(lengths), 1), np.uint8)
    slots, last = Slots(rows[:, None], rows), Slots(ends[:, None], ends)
    steps = Steps(slots, last, rows, rows, lengths, ends[:, 0] > 0)
    with pytest.raises(InvalidFile, match="toy: 1,000,002 episodes that are padded to 1,000,000"):
        pad(steps, SPEC)


def test_errors_of_the_readers_are_those_that_a_user_can_mend():
    assert issubclass(InvalidFile, JaxoffError)
