"""Which ops of TensorFlow compute, and do nothing else: for graphs that cross from a build, and for published ones.

A list of what is allowed. No op here reads or writes a file, opens a socket, runs Python, prints, or keeps what it saw
for later; assertions are left out too, since their messages quote data. Weights are read through `WEIGHT_OPS`, tables
through `TABLE_OPS`.
"""

from __future__ import annotations

_ARITHMETIC = """Abs Acos Acosh Add AddN AddV2 Angle ApproximateEqual Asin Asinh Atan Atan2 Atanh BesselI0 BesselI0e
BesselI1 BesselI1e Betainc BitwiseAnd BitwiseOr BitwiseXor Invert LeftShift RightShift Bitcast Ceil ClipByValue Complex
ComplexAbs Conj Cos Cosh Cross Cumprod Cumsum CumulativeLogsumexp Digamma Div DivNoNan Elu Equal Erf Erfc Erfinv Exp
Expm1 Floor FloorDiv FloorMod Greater GreaterEqual Igamma Igammac Imag Inv IsFinite IsInf IsNan LeakyRelu Less LessEqual
Lgamma Log Log1p LogicalAnd LogicalNot LogicalOr Maximum Minimum Mod Mul MulNoNan Ndtri Neg NextAfter NotEqual Polygamma
Pow Real RealDiv Reciprocal Relu Relu6 Rint Round Rsqrt Selu Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Square
SquaredDifference Sub Tan Tanh TruncateDiv TruncateMod Xdivy Xlog1py Xlogy Zeta Cast Select SelectV2 PopulationCount"""
_REDUCTIONS = """All Any ArgMax ArgMin Bincount DenseBincount EuclideanNorm InTopKV2 LogSoftmax Max Mean Min Prod
LogMatrixDeterminant SegmentMax SegmentMean SegmentMin SegmentProd SegmentSum Softmax Sum TopKV2 UnsortedSegmentMax
UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum L2Loss Bucketize HistogramFixedWidth SparseSegmentSum
SparseSegmentMean"""
_SHAPES = """BatchToSpaceND BroadcastArgs BroadcastTo Concat ConcatOffset ConcatV2 Const DepthToSpace Diag DiagPart
DynamicPartition DynamicStitch ParallelDynamicStitch EnsureShape ExpandDims Fill Gather GatherNd GatherV2 Identity
IdentityN InvertPermutation LinSpace MatrixBandPart MatrixDiag MatrixDiagV2 MatrixDiagV3 MatrixDiagPart
MatrixDiagPartV2 MatrixDiagPartV3 MatrixSetDiag MatrixSetDiagV3 MirrorPad NoOp OneHot OnesLike Pack Pad PadV2
Placeholder PlaceholderWithDefault PreventGradient Range Rank Reshape ReverseSequence ReverseV2 Roll ScatterNd Shape
ShapeN Size Slice SpaceToBatchND SpaceToDepth Split SplitV Squeeze StopGradient StridedSlice TensorScatterAdd
TensorScatterMax TensorScatterMin TensorScatterSub TensorScatterUpdate Tile Transpose Unique UniqueV2 UniqueWithCounts
Unpack UpperBound LowerBound Where ZerosLike Snapshot"""
_LINEAR = """BatchMatMul BatchMatMulV2 BatchMatMulV3 Cholesky ConjugateTranspose Einsum
FFT FFT2D IFFT IFFT2D RFFT RFFT2D IRFFT IRFFT2D MatMul MatrixDeterminant MatrixInverse MatrixSolve
MatrixTriangularSolve Qr SelfAdjointEigV2 Svd SparseTensorDenseMatMul"""
_NEURAL = """AvgPool AvgPool3D BiasAdd BiasAddV1 Conv2D Conv3D Conv2DBackpropInput Conv3DBackpropInputV2
DepthwiseConv2dNative Dilation2D FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 LRN MaxPool MaxPoolV2 MaxPool3D
ExtractImagePatches ExtractVolumePatches ResizeArea ResizeBicubic ResizeBilinear ResizeNearestNeighbor AdjustContrastv2
AdjustHue AdjustSaturation HSVToRGB RGBToHSV SoftmaxCrossEntropyWithLogits SparseSoftmaxCrossEntropyWithLogits"""
_RANDOM = """Multinomial RandomShuffle RandomStandardNormal RandomUniform RandomUniformInt StatelessMultinomial
StatelessRandomGetAlg StatelessRandomGetKeyCounter StatelessRandomGetKeyCounterAlg StatelessRandomNormal
StatelessRandomNormalV2 StatelessRandomUniform StatelessRandomUniformInt StatelessRandomUniformIntV2
StatelessRandomUniformV2 StatelessTruncatedNormal StatelessTruncatedNormalV2 TruncatedNormal"""
_SPARSE = """RaggedRange RaggedTensorToTensor SparseAdd SparseConcat SparseCross SparseCrossV2 SparseFillEmptyRows
SparseReduceMax SparseReduceSum SparseReorder SparseReshape SparseSlice SparseSoftmax SparseSplit SparseTensorDenseAdd
SparseToDense"""
_TEXT = """AsString ReduceJoin RegexFullMatch RegexReplace StaticRegexFullMatch StaticRegexReplace StringFormat
StringJoin StringLength StringLower StringSplit StringSplitV2 StringStrip StringToHashBucket StringToHashBucketFast
StringToHashBucketStrong StringToNumber StringUpper Substr UnicodeDecode UnicodeDecodeWithOffsets UnicodeEncode
UnicodeScript UnicodeTranscode UnsortedSegmentJoin StringNGrams"""
_LISTS = """EmptyTensorList TensorListConcatV2 TensorListElementShape TensorListFromTensor TensorListGather
TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack TensorListReserve TensorListResize
TensorListScatterV2 TensorListSetItem TensorListStack"""
CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
BRANCHES = frozenset({"If", "StatelessIf"})
LOOPS = frozenset({"While", "StatelessWhile"})
WEIGHT_OPS = frozenset(
    {
        "ReadVariableOp",
        "ResourceGather",
        "VariableShape",
        "AssignVariableOp",
        "AssignAddVariableOp",
        "AssignSubVariableOp",
    }
)
TABLE_OPS = frozenset({"LookupTableFindV2", "LookupTableSizeV2"})
COMPUTING = frozenset(
    name
    for names in (_ARITHMETIC, _REDUCTIONS, _SHAPES, _LINEAR, _NEURAL, _RANDOM, _SPARSE, _TEXT, _LISTS)
    for name in names.split()
)
ALLOWED = COMPUTING | CALLS | BRANCHES | LOOPS | WEIGHT_OPS | TABLE_OPS
