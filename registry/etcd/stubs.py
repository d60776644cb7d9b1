"""etcd's messages and stubs, from the descriptors inside etcd3.

The generated modules of etcd3 0.12 do not import under protobuf 4 and later, because they build their descriptors in
a way that the C backend forbids. The serialized descriptors inside them are sound: they are read from the modules'
source, completed with what 0.12 lacks (progress requests on a watch), and built with the descriptor pool. The finished
modules are put in place before anything imports etcd3's own.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FILES: Final = ("kv", "auth", "rpc")
_PACKAGE: Final = "etcd3.etcdrpc"


def _generated() -> Path:
    spec = importlib.util.find_spec("etcd3")
    if spec is None or spec.origin is None:
        raise ImportError("the package etcd3 is not installed")
    return Path(spec.origin).parent / "etcdrpc"


def _serialized(source: Path) -> bytes:
    """The serialized FileDescriptorProto inside a generated module, without running it."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.keyword) and node.arg == "serialized_pb" and isinstance(node.value, ast.Call):
            (literal,) = node.value.args
            if isinstance(literal, ast.Constant) and isinstance(literal.value, str):
                return literal.value.encode("latin1")
    raise ImportError(f"no serialized descriptor in {source.name}: is this etcd3 0.12?")


def _complete(proto: descriptor_pb2.FileDescriptorProto) -> None:
    """What etcd has learnt since: WatchRequest.progress_request, what a member says of itself, and users without a
    password (etcd 3.4)."""
    messages = {message.name: message for message in proto.message_type}
    user = messages.get("AuthUserAddRequest")
    if user is not None and all(field.name != "options" for field in user.field):
        field = descriptor_pb2.FieldDescriptorProto
        options = proto.message_type.add(name="UserAddOptions")
        options.field.add(name="no_password", number=1, type=field.TYPE_BOOL, label=field.LABEL_OPTIONAL)
        user.field.add(
            name="options",
            number=3,
            type=field.TYPE_MESSAGE,
            label=field.LABEL_OPTIONAL,
            type_name=".etcdserverpb.UserAddOptions",
        )
    status = messages.get("StatusResponse")
    if status is not None and all(field.name != "errors" for field in status.field):
        field = descriptor_pb2.FieldDescriptorProto
        status.field.add(name="errors", number=8, type=field.TYPE_STRING, label=field.LABEL_REPEATED)
        status.field.add(name="dbSizeInUse", number=9, type=field.TYPE_INT64, label=field.LABEL_OPTIONAL)
    request = messages.get("WatchRequest")
    if request is None or any(field.name == "progress_request" for field in request.field):
        return
    proto.message_type.add(name="WatchProgressRequest")
    field = descriptor_pb2.FieldDescriptorProto
    request.field.add(
        name="progress_request",
        number=3,
        type=field.TYPE_MESSAGE,
        label=field.LABEL_OPTIONAL,
        type_name=".etcdserverpb.WatchProgressRequest",
        oneof_index=0,
    )


def _without_options(proto: descriptor_pb2.FileDescriptorProto) -> None:
    """gogoproto's and the HTTP gateway's annotations: nothing here reads them, and their files are not at hand."""
    kept = [name for name in proto.dependency if name in ("kv.proto", "auth.proto")]
    del proto.dependency[:]
    proto.dependency.extend(kept)


def _module(name: str, file: Any, pool: descriptor_pool.DescriptorPool) -> types.ModuleType:
    module = types.ModuleType(f"{_PACKAGE}.{name}_pb2")
    contents: dict[str, Any] = {"DESCRIPTOR": file}
    for message in file.message_types_by_name.values():
        contents[message.name] = message_factory.GetMessageClass(message)
    for enum in file.enum_types_by_name.values():
        contents.update({value.name: value.number for value in enum.values})
    vars(module).update(contents)
    return module


def load() -> tuple[types.ModuleType, types.ModuleType]:
    """The messages (`rpc_pb2`, with those of `kv_pb2`) and the stubs (`rpc_pb2_grpc`)."""
    if f"{_PACKAGE}.rpc_pb2_grpc" not in sys.modules:
        _build()
    return sys.modules[f"{_PACKAGE}.rpc_pb2"], sys.modules[f"{_PACKAGE}.rpc_pb2_grpc"]


def _build() -> None:
    folder = _generated()
    pool = descriptor_pool.DescriptorPool()
    modules: dict[str, types.ModuleType] = {}
    for name in _FILES:
        proto = descriptor_pb2.FileDescriptorProto.FromString(_serialized(folder / f"{name}_pb2.py"))
        _complete(proto)
        _without_options(proto)
        pool.Add(proto)
        modules[name] = _module(name, pool.FindFileByName(proto.name), pool)
    package = types.ModuleType(_PACKAGE)
    package.__path__ = [str(folder)]
    for name, module in modules.items():
        setattr(package, f"{name}_pb2", module)
        sys.modules[f"{_PACKAGE}.{name}_pb2"] = module
    vars(modules["rpc"]).update({name: value for name, value in vars(modules["kv"]).items() if name[:1].isupper()})
    sys.modules[_PACKAGE] = package
    spec = importlib.util.spec_from_file_location(f"{_PACKAGE}.rpc_pb2_grpc", folder / "rpc_pb2_grpc.py")
    if spec is None or spec.loader is None:
        raise ImportError("etcd3 has no rpc_pb2_grpc")
    grpc_module = importlib.util.module_from_spec(spec)
    sys.modules["etcd3"] = sys.modules.get("etcd3") or _bare_package(folder.parent)
    spec.loader.exec_module(grpc_module)
    sys.modules[f"{_PACKAGE}.rpc_pb2_grpc"] = grpc_module


def _bare_package(folder: Path) -> types.ModuleType:
    """etcd3 without its client, whose import would pull in what is not used."""
    package = types.ModuleType("etcd3")
    package.__path__ = [str(folder)]
    return package
