"""The list of stateful ops that a private graph may hold, and the reasons against the others.

An op passes if TensorFlow declares it free of state and it touches no resource, or if it is on the list, which has a
condition for each kind. All others are refused, and so is an op that nobody has thought of yet.

| kind | condition |
|---|---|
| reads of variables | none |
| calls, branches and loops | none: their bodies are looked at as the graph itself is |
| lists of a loop (`TensorArray`) | none: they end with the step |
| finds in a table | it is a `StaticHashTable` that an object of the model holds, and no op of the graph fills it |
| writes of variables | the caller names the variable: the private update writes it |
| `CudnnRNN` | without dropout |
| assertions | the error's text is made of constants, shapes and the optimizer's count of steps, not of rows |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["keeps", "shows", "draws"]

FREE = frozenset(
    (
        *("VarHandleOp", "ReadVariableOp", "VariableShape", "VarIsInitializedOp", "ResourceGather", "ResourceGatherNd"),
        *("If", "While", "Case", "StatefulPartitionedCall", "_Arg", "_Retval"),
        *(f"TensorArray{name}V3" for name in ("", "Read", "Write", "Gather", "Scatter", "Size", "Concat", "Split")),
        *("TensorArrayGradV3", "TensorArrayGradWithShape", "TensorArrayCloseV3"),
        *("DeviceIndex", "IsTensorFloat32Enabled", "StatelessRandomGetAlg"),
    )
)
FINDS = frozenset(("LookupTableFindV2", "LookupTableSizeV2"))
WRITES = re.compile("Assign(Add|Sub)?VariableOp|Resource(Scatter|Apply|SparseApply|StridedSliceAssign)")
CUDNN = frozenset(f"CudnnRNN{name}" for name in ("", "V2", "V3", "Backprop", "BackpropV2", "BackpropV3"))
# Random ops that no key decides. They keep nothing but the process' own generator.
DRAWS = frozenset(
    (
        *("RandomUniform", "RandomUniformInt", "RandomStandardNormal", "RandomGamma", "RandomPoisson"),
        *("RandomPoissonV2", "RandomShuffle", "RandomCrop", "TruncatedNormal", "ParameterizedTruncatedNormal"),
        *("Multinomial", "SampleDistortedBoundingBox", "SampleDistortedBoundingBoxV2", "NonDeterministicInts"),
        *(f"{name}CandidateSampler" for name in ("All", "FixedUnigram", "LogUniform", "Uniform")),
        *CUDNN,
    )
)
# TensorFlow does not declare them stateful.
HIDDEN = re.compile(
    "PyFuncStateless|Debug|CopyToMesh|CopyHost$|Copy$|Inplace|AliasInplace|_(?!Arg$|Retval$)|"
    "(Ref)?(Switch|Merge|Enter|Exit|NextIteration)$|RefSelect|_SwitchN|LoopCond|ControlTrigger"
)
KEYED = "use a Keras layer such as Dropout or GaussianNoise in its place"


@dataclass(frozen=True)
class Reason:
    """The reason against a refused op.

    Attributes:
        pattern: matches the beginning of the op's type.
        kind: whether it `keeps` values, `shows` them, or `draws` what the run's key does not decide.
        why: what is wrong, to be read after the op's name.
        instead: what to use instead.
    """

    pattern: str
    kind: Kind
    why: str
    instead: str


# The first that fits an op's type gives the reason; an op that fits none is refused as well.
REASONS = (
    Reason(
        "Rng|Stateful(Uniform|Standard|Truncated|Random)",
        "keeps",
        "moves a random generator that leaves with the model",
        KEYED,
    ),
    Reason(
        "Assign|Resource|Scatter|StridedSliceAssign|Apply|Sparse.*Apply|CountUpTo|Temporary",
        "keeps",
        "assigns variables during a call: exact values of private batches would leave with the model",
        "drop the layer that keeps state",
    ),
    Reason(
        ".*(LookupTable|HashTable|InitializeTable)",
        "keeps",
        "fills a table, or reads one that is not known to hold public values alone",
        "use a tf.lookup.StaticHashTable of constants or of a public file, as an attribute of its layer",
    ),
    Reason(
        "Map|OrderedMap|.*(Queue|Barrier|[Ss]tage|Stack|Accumulator|TensorsMap|Session|Mutex)",
        "keeps",
        "keeps values of private batches from one batch to the next",
        "drop the layer that keeps state",
    ),
    Reason(
        "Inplace|AliasInplace",
        "keeps",
        "writes into the tensor that it takes, which may be a weight",
        "use tf.tensor_scatter_nd_update",
    ),
    Reason(
        "(Ref)?(Switch|Merge|Enter|Exit|NextIteration)$|LoopCond|ControlTrigger",
        "keeps",
        "is control flow of TensorFlow 1, in which it also matters which ops run",
        "use tf.cond and tf.while_loop",
    ),
    Reason(
        ".*PyFunc",
        "keeps",
        "runs Python, which can keep or show any row",
        "write it with TensorFlow's own ops in place of py_function or numpy_function",
    ),
    Reason(
        "Assert",
        "shows",
        "would show values of private rows in the text of its error",
        "give the assertion a constant message alone, or drop it",
    ),
    Reason(
        "Print|.*Summar|CheckNumerics|Debug|Write|.*Save|Dump|Copy|.*Send|Outfeed|ImportEvent|.*Checkpoint",
        "shows",
        "shows or writes values of private rows",
        "drop it",
    ),
    Reason(
        ".*(Iterator|Dataset|Reader|RecordInput)",
        "keeps",
        "reads data by itself, which no sampling covers, and keeps its place in it",
        "pass all data to fit",
    ),
)
OTHER = Reason(
    "", "keeps", "is stateful, and not on the list of ops that keep no rows", "drop it, or use stateless ops"
)


def reason_of(kind: str, *, seeded: bool = False) -> Reason:
    """Return the reason against an op, which the list does not let through.

    Args:
        kind: its type.
        seeded: whether the code gave it a seed of its own.
    """
    if kind in DRAWS and seeded:
        why = "draws from a fixed seed: what it draws for a row belongs to the row's place among the others"
        return Reason("", "keeps", why, f"{KEYED}, or drop the seed (tf.random.set_seed is one)")
    if kind in DRAWS:
        return Reason("", "draws", "draws what the run's key does not decide", KEYED)
    return next((reason for reason in REASONS if re.match(reason.pattern, kind)), OTHER)
