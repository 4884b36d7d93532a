"""The messages of the protocol over gRPC, described here and made by protobuf at run time.

Nothing is generated and no generator is needed: generated code fits one major version of protobuf only. The
numbers of the fields are those of the Open Inference Protocol (`open_inference_grpc.proto` of
kserve/open-inference-protocol) and of Triton's extensions.
"""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
# A field is its number, its kind and its name; `*` means that there may be many, `map` that they have names.
_NAMED = "1 string name, 2 string version"
_TENSOR = "1 string name, 2 string datatype, 3 *int64 shape"
_PARAMETERS = "map:InferParameter parameters"
_MESSAGES: Mapping[str, str] = MappingProxyType(
    {
        "ServerLiveRequest": "",
        "ServerLiveResponse": "1 bool live",
        "ServerReadyRequest": "",
        "ServerReadyResponse": "1 bool ready",
        "ModelReadyRequest": _NAMED,
        "ModelReadyResponse": "1 bool ready",
        "ServerMetadataRequest": "",
        "ServerMetadataResponse": f"{_NAMED}, 3 *string extensions",
        "ModelMetadataRequest": _NAMED,
        "ModelMetadataResponse.TensorMetadata": _TENSOR,
        "ModelMetadataResponse": "1 string name, 2 *string versions, 3 string platform, "
        "4 *ModelMetadataResponse.TensorMetadata inputs, 5 *ModelMetadataResponse.TensorMetadata outputs",
        "InferParameter": "oneof 1 bool bool_param, oneof 2 int64 int64_param, oneof 3 string string_param, "
        "oneof 4 double double_param, oneof 5 uint64 uint64_param",
        "InferTensorContents": "1 *bool bool_contents, 2 *int32 int_contents, 3 *int64 int64_contents, "
        "4 *uint32 uint_contents, 5 *uint64 uint64_contents, 6 *float fp32_contents, "
        "7 *double fp64_contents, 8 *bytes bytes_contents",
        "ModelInferRequest.InferInputTensor": f"{_TENSOR}, 4 {_PARAMETERS}, 5 InferTensorContents contents",
        "ModelInferRequest.InferRequestedOutputTensor": f"1 string name, 2 {_PARAMETERS}",
        "ModelInferRequest": f"1 string model_name, 2 string model_version, 3 string id, 4 {_PARAMETERS}, "
        "5 *ModelInferRequest.InferInputTensor inputs, "
        "6 *ModelInferRequest.InferRequestedOutputTensor outputs, 7 *bytes raw_input_contents",
        "ModelInferResponse.InferOutputTensor": f"{_TENSOR}, 4 {_PARAMETERS}, 5 InferTensorContents contents",
        "ModelInferResponse": f"1 string model_name, 2 string model_version, 3 string id, 4 {_PARAMETERS}, "
        "5 *ModelInferResponse.InferOutputTensor outputs, 6 *bytes raw_output_contents",
        "ModelStreamInferResponse": "1 string error_message, 2 ModelInferResponse infer_response",
        "ModelInput": "1 string name, 2 DataType data_type, 4 *int64 dims",
        "ModelOutput": "1 string name, 2 DataType data_type, 3 *int64 dims",
        "ModelConfig": "1 string name, 2 string platform, 4 int32 max_batch_size, 5 *ModelInput input, "
        "6 *ModelOutput output, 17 string backend",
        "ModelConfigRequest": _NAMED,
        "ModelConfigResponse": "1 ModelConfig config",
        "StatisticDuration": "1 uint64 count, 2 uint64 ns",
        "InferStatistics": ", ".join(
            f"{number} StatisticDuration {name}"
            for number, name in enumerate(
                ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit",
                 "cache_miss"), start=1,
            )
        ),
        "InferBatchStatistics": "1 uint64 batch_size, 2 StatisticDuration compute_input, "
        "3 StatisticDuration compute_infer, 4 StatisticDuration compute_output",
        "ModelStatistics": f"{_NAMED}, 3 uint64 last_inference, 4 uint64 inference_count, "
        "5 uint64 execution_count, 6 InferStatistics inference_stats, 7 *InferBatchStatistics batch_stats",
        "ModelStatisticsRequest": _NAMED,
        "ModelStatisticsResponse": "1 *ModelStatistics model_stats",
        "ModelRepositoryParameter": "oneof 1 bool bool_param, oneof 2 int64 int64_param, "
        "oneof 3 string string_param, oneof 4 bytes bytes_param",
        "RepositoryIndexRequest": "1 string repository_name, 2 bool ready",
        "RepositoryIndexResponse.ModelIndex": f"{_NAMED}, 3 string state, 4 string reason",
        "RepositoryIndexResponse": "1 *RepositoryIndexResponse.ModelIndex models",
        "RepositoryModelLoadRequest": "1 string repository_name, 2 string model_name, "
        "3 map:ModelRepositoryParameter parameters",
        "RepositoryModelLoadResponse": "",
        "RepositoryModelUnloadRequest": "1 string repository_name, 2 string model_name, "
        "3 map:ModelRepositoryParameter parameters",
        "RepositoryModelUnloadResponse": "",
    }
)  # fmt: skip
DATA_TYPES = (
    "TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8",
    "TYPE_INT16", "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING",
    "TYPE_BF16",
)  # fmt: skip
METHODS = tuple(name.removesuffix("Request") for name in _MESSAGES if name.endswith("Request"))
_Field = descriptor_pb2.FieldDescriptorProto


def message(name: str) -> Any:
    """Return the class of a message. Raises KeyError for one that is not of the protocol."""
    return _classes()[name]


@cache
def _classes() -> Mapping[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="veltair/inference.proto", package=PACKAGE, syntax="proto3"
    )
    kinds = file.enum_type.add(name="DataType")
    for number, kind in enumerate(DATA_TYPES):
        kinds.value.add(name=kind, number=number)
    described: dict[str, Any] = {}
    for name, fields in sorted(_MESSAGES.items(), key=lambda one: one[0].count(".")):
        outer, _, inner = name.rpartition(".")
        if outer:
            described[name] = described[outer].nested_type.add(name=inner)
        else:
            described[name] = file.message_type.add(name=inner)
        for field in filter(None, fields.split(", ")):
            _describe(described[name], name, field)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return MappingProxyType(
        {
            name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
            for name in _MESSAGES
        }
    )


def _describe(holder: Any, path: str, field: str) -> None:
    """Add a field as it is written above to the description of a message."""
    *choice, number, kind, name = field.split()
    made = holder.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
    if choice:
        if not holder.oneof_decl:
            holder.oneof_decl.add(name="parameter_choice")
        made.oneof_index = 0
    if kind.startswith("map:"):
        entry = holder.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_STRING)
        _describe(entry, path, f"2 {kind.removeprefix('map:')} value")
        made.label, made.type = _Field.LABEL_REPEATED, _Field.TYPE_MESSAGE
        made.type_name = f".{PACKAGE}.{path}.ParametersEntry"
        return
    if kind.startswith("*"):
        made.label, kind = _Field.LABEL_REPEATED, kind[1:]
    if kind == "DataType":
        made.type, made.type_name = _Field.TYPE_ENUM, f".{PACKAGE}.DataType"
    elif kind in _MESSAGES:
        made.type, made.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        made.type = getattr(_Field, f"TYPE_{kind.upper()}")
