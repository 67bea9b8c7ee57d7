"""Broken and hostile model files: kinds of damage for every part of a file."""

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import torch
from safetensors.torch import save_file

# ------------------------------------------------------------------------------------------------ tensors


def _missing(tensors, key):
    del tensors[key]


def _with(change):
    def apply(tensors, key):
        tensors[key] = change(tensors[key])

    return apply


def _poked(value, number):
    value = value.clone()
    value.view(-1)[value.numel() // 2] = number
    return value


TENSOR_KINDS = {
    "missing": _missing,
    "renamed": lambda tensors, key: tensors.update({f"{key}.more": tensors.pop(key)}),
    "shorter": _with(lambda value: value[:-1]),
    "longer": _with(lambda value: torch.cat([value, value[:1]])),
    "more axes": _with(lambda value: value[None]),
    "one number": _with(lambda value: value.flatten()[0]),
    "flat": _with(lambda value: value.flatten()[None, None, None, None]),
    "empty": _with(lambda value: value[:0]),
    "no width": _with(lambda value: value.new_zeros(*value.shape, 0)),
    "int64": _with(lambda value: value.long()),
    "uint8": _with(lambda value: value.byte()),
    "bool": _with(lambda value: value.bool()),
    "complex": _with(lambda value: value.to(torch.complex64)),
    "nan": _with(lambda value: _poked(value, float("nan"))),
    "inf": _with(lambda value: _poked(value, float("-inf"))),
}


def broken(tensors, kind, key):
    """A copy of a state dict with one tensor broken."""
    tensors = dict(tensors)
    TENSOR_KINDS[kind](tensors, key)
    return tensors


# ------------------------------------------------------------------------------------------------ bytes

BYTE_KINDS = {
    "nothing": lambda data, rng: b"",
    "one byte": lambda data, rng: data[:1],
    "seven bytes": lambda data, rng: data[:7],
    "header cut": lambda data, rng: data[:100],
    "half": lambda data, rng: data[: len(data) // 2],
    "last byte": lambda data, rng: data[:-1],
    "first byte": lambda data, rng: data[1:],
    "more behind": lambda data, rng: data + b"\0" * 1000,
    "twice": lambda data, rng: data + data,
    "random": lambda data, rng: rng.bytes(3000),
    "zeros": lambda data, rng: bytes(len(data)),
    "text": lambda data, rng: b"these are no weights\n" * 50,
    "flipped head": lambda data, rng: _flipped(data, rng, 300, 5),
    "flipped bytes": lambda data, rng: _flipped(data, rng, len(data), 60),
    "hole": lambda data, rng: data[: len(data) // 3] + data[len(data) // 3 + 64 :],
    "zeroed tail": lambda data, rng: data[:-400] + bytes(400),
}


def _flipped(data, rng, until, count):
    changed = bytearray(data)
    for at in rng.integers(0, min(until, len(data)), count):
        changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def container(tensors, kind):
    """The bytes of a file of a kind: "safetensors", "zip" or "legacy"."""
    if kind == "safetensors":
        from safetensors.torch import save

        return save({k: v.contiguous() for k, v in tensors.items()}, {"videolcm.head_dim": "64"})
    file = io.BytesIO()
    torch.save(tensors, file, _use_new_zipfile_serialization=kind == "zip")
    return file.getvalue()


# ------------------------------------------------------------------------------------------------ safetensors


def _file(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _entry(shape=(2,), begin=0, end=8, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


EIGHT = bytes(8)
HEADERS = {
    "length beyond the file": struct.pack("<Q", 1 << 40) + b"{}",
    "length of all bits": b"\xff" * 8 + b"{}",
    "no json": _file(b"{a}"),
    "no utf-8": _file(b'{"\xff": 1}'),
    "a list": _file([1, 2]),
    "a number": _file(b"12345678"),
    "deep": _file(b'{"a":' * 30_000 + b"1" + b"}" * 30_000),
    "endless number": _file(b'{"a":' + b"9" * 10_000 + b"}"),
    "no entry": _file({"a": 3}),
    "no offsets": _file({"a": {"dtype": "F32", "shape": [2]}}, EIGHT),
    "unknown type": _file({"a": _entry(dtype="F1024")}, EIGHT),
    "type of another kind": _file({"a": _entry(dtype=[1])}, EIGHT),
    "negative length": _file({"a": _entry((-2, -1))}, EIGHT),
    "length as text": _file({"a": _entry(("2",))}, EIGHT),
    "length as truth": _file({"a": _entry((True, 2))}, EIGHT),
    "a trillion values": _file({"a": _entry((1 << 40,), 0, 1 << 42)}, EIGHT),
    "shape too large for its bytes": _file({"a": _entry((1 << 30, 1 << 30))}, EIGHT),
    "a thousand axes": _file({"a": _entry((1,) * 1000, 0, 4)}, bytes(4)),
    "offsets backwards": _file({"a": _entry((2,), 8, 0)}, EIGHT),
    "offsets beyond": _file({"a": _entry((2,), 8, 16)}, EIGHT),
    "three offsets": _file({"a": {**_entry(), "data_offsets": [0, 4, 8]}}, EIGHT),
    "overlap": _file({"a": _entry(), "b": _entry((1,), 4, 8)}, EIGHT),
    "gap": _file({"a": _entry((1,), 4, 8)}, EIGHT),
    "twice the same name": _file(b'{"a":' + json.dumps(_entry()).encode() + b',"a":' + b"{}}", EIGHT),
    "metadata of numbers": _file({"__metadata__": {"a": 1}, "a": _entry()}, EIGHT),
    "metadata as a list": _file({"__metadata__": [1], "a": _entry()}, EIGHT),
    "nothing inside": _file({}),
    "a long name": _file({"a" * 1_000_000: 3}),
    "too many names": _file({f"n{number}": _entry((0,), 0, 0) for number in range(51_000)}),
    "a name with lines": _file({"a\n\x1b[31mb\u202e": _entry()}, EIGHT),
}

# ------------------------------------------------------------------------------------------------ pickles


class _Call:
    """A pickle that calls something when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _torch(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def _zipped(entries, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def _recompressed(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    return _zipped(entries, zipfile.ZIP_DEFLATED)


def _nested(depth):
    value = ("a",)
    for _ in range(depth):
        value = (value, value)
    return value


def _promising(content):
    """An archive whose directory says that an entry has a terabyte."""
    data = bytearray(content)
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = b"\xff\xff\xff\x7f"
    return bytes(data)


def _legacy_storage(content):
    """An old file whose storage promises a trillion values."""
    return content.replace(b"cpu", b"cpu", 1).replace(struct.pack("<q", 512), struct.pack("<q", 1 << 40))


BASE = torch.ones(512)
PICKLES = {
    "compressed zeros": lambda: _recompressed(_torch({"a": torch.zeros(100_000_000, dtype=torch.uint8)})),
    "compressed pickle": lambda: _zipped({"x/data.pkl": b"\x80\x02" + b" " * 200_000_000}, zipfile.ZIP_DEFLATED),
    "promised entry": lambda: _promising(_torch({"a": BASE})),
    "zip of a text": lambda: _zipped({"hello.txt": "hello"}),
    "empty zip": lambda: _zipped({}),
    "program": lambda: _zipped({"m/constants.pkl": b"", "m/data.pkl": b"", "m/code/a.py": "x = 1"}),
    "stride 0": lambda: _torch({"input_blocks.0.0.weight": torch.ones(1).expand(100_000, 1_000_000)}),
    "overlapping": lambda: _torch({"a": torch.ones(1000).as_strided((900, 900), (1, 0))}),
    "one storage, many tensors": lambda: _torch(_shared()),
    "sparse": lambda: _torch({"a": torch.sparse_coo_tensor(torch.zeros(1, 1), torch.ones(1), (1 << 40,))}),
    "sparse rows": lambda: _torch({"a": torch.eye(4).to_sparse_csr()}),
    "quantized": lambda: _torch({"a": torch.quantize_per_tensor(BASE, 0.1, 0, torch.qint8)}),
    "meta": lambda: _torch({"a": torch.empty(1 << 20, 1 << 20, device="meta")}),
    "names that double": lambda: _torch({"a": BASE, _nested(12): BASE}),
    "only names that double": lambda: _torch({_nested(12): BASE}),
    "names of numbers": lambda: _torch({10**1000: BASE}),
    "step of another kind": lambda: _torch({"state_dict": {"a": BASE}, "step": float("nan")}),
    "states in states": lambda: _torch({"state_dict": {"state_dict": {"a": BASE}}}),
    "a list": lambda: _torch([1, 2]),
    "no tensors": lambda: _torch({"a": "b"}),
    "itself": lambda: _torch(_circle()),
    "a call": lambda: pickle.dumps(_Call(print, "called")),
    "a call in a zip": lambda: _torch({"a": BASE, "b": _Call(print, "called")}),
    "a system call": lambda: b"cos\nsystem\n(S'true'\ntR.",
    "a huge bytearray": lambda: pickle.dumps(_Call(bytearray, 1 << 45), 2),
    "a huge ordered dict": lambda: pickle.dumps(_Call(OrderedDict, [1, 2]), 2),
    "a deep tuple": lambda: b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
    "a long memo": lambda: b"\x80\x02}r\xff\xff\xff\xff.",
    "an endless string": lambda: b"\x80\x02X\xff\xff\xff\x7f.",
    "old storage": lambda: _legacy_storage(_torch({"a": BASE}, _use_new_zipfile_serialization=False)),
    "numpy": lambda: pickle.dumps({"a": np.ones(3)}),
    "tar": lambda: b"./PaxHeaders" + bytes(500) + b"ustar" + bytes(1000),
}


def _shared():
    base = torch.ones(10_000)
    return {f"b{number}": base[:] for number in range(3000)}


def _circle():
    content = {}
    content["state_dict"] = content
    return content


# ------------------------------------------------------------------------------------------------ sizes


def endless_blocks(count=4000):
    """A UNet's names for thousands of blocks, none of which has more than a few numbers."""
    tensors = {f"input_blocks.{n}.0.out_layers.3.weight": torch.zeros(32, 32, 1, 1) for n in range(1, count)}
    tensors |= {"input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3), "out.2.weight": torch.zeros(4, 32, 3, 3)}
    tensors |= {"input_blocks.0.1.proj_in.weight": torch.zeros(64, 32)}
    tensors |= {"input_blocks.0.1.transformer_blocks.0.attn1.to_q.weight": torch.zeros(64, 64)}
    return tensors | {"middle_block.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(64, 64)}


def endless_levels(count=2000):
    tensors = endless_blocks(count)
    return tensors | {f"input_blocks.{n}.op.weight": torch.zeros(1) for n in range(2, count, 2)}


def wide(channels):
    """A UNet of a few enormous layers, which have no values."""
    tensors = endless_blocks(3)
    tensors["input_blocks.1.0.out_layers.3.weight"] = torch.zeros(channels, 32, 1, 0)
    return tensors


def wide_text(tensors, prefix):
    """A text encoder whose token table would take 200 GB at its full length."""
    table = f"{prefix}transformer.text_model.embeddings.token_embedding.weight"
    return {**tensors, table: torch.zeros(7, 1_000_000)}


def endless_text(tensors, prefix):
    layer = f"{prefix}transformer.text_model.encoder.layers"
    return {**tensors, **{f"{layer}.{n}.layer_norm1.weight": torch.zeros(32) for n in range(2, 4000)}}


def save(path, content, metadata=None):
    """Write bytes, or tensors by the file's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in content.items()}, path, metadata)
    else:
        torch.save(content, path)
    return path.name
