"""The words of which the inner loops are made: vectors loaded, widened, multiplied and stored, as LLVM has them.

Numba compiles plain loops well, but does not find the processor's dot products of bfloat16 and int8, nor keep a tile of sums
in registers. Those inner loops (streams, tiles, dots, recall and others) are said with the builder of this module.
"""

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import carray
from numba.core import cgutils, config, types
from numba.extending import intrinsic

from ..kernels.jit import jit

__all__ = [
    "BFLOAT16",
    "BLOCK",
    "FLOAT32",
    "FOLDS",
    "INT8",
    "LANES",
    "ROUND",
    "SIZES",
    "WIDENED",
    "WIDTH",
    "address_of",
    "features",
    "floats",
    "instruction",
    "int8s",
    "int32s",
    "int64s",
    "keep",
    "lane",
    "uint16s",
]

llvmlite.binding.initialize_native_asmparser()


def features():
    """What the processor can do, by LLVM's names: that of NUMBA_CPU_NAME and NUMBA_CPU_FEATURES where they are set."""
    if config.CPU_FEATURES is not None:
        return {name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+")}
    if config.CPU_NAME not in (None, "host"):
        return set()
    return {name for name, has in llvmlite.binding.get_host_cpu_features().items() if has}


_FEATURES = features()
_WIDE = {"avx512f", "avx512bw"} <= _FEATURES
FLOAT32, BFLOAT16, INT8, WIDENED = range(4)
"""What weights are made of and multiplied in; WIDENED are bfloat16 that are multiplied in float32."""
SIZES = (4, 2, 1, 2)
"""Bytes of a weight, by kind."""
FOLDS = (1, 2 if _WIDE and "avx512bf16" in _FEATURES else 1, 4 if _WIDE and "avx512vnni" in _FEATURES else 1, 1)
"""How many weights a lane of 32 bits multiplies at once, by kind; 1 is by way of float32."""
BLOCK = 64
"""Columns are cut at multiples of this, whatever the number of threads."""
ROUND = np.float32(3 << 22)
"""Added to a number below 2^22 it leaves the nearest whole number, of two as near the even one, in the last bits."""
LANES = 16 if _WIDE else 8 if "avx" in _FEATURES else 4
"""How many float32 a register holds."""
WIDTH = 4 if _WIDE else 2
"""How many registers stand side by side in a tile."""

I8, I16, I32, I64, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()


def lane(kind):
    """What a lane of sums is: int32 where quads of int8 are multiplied."""
    return I32 if FOLDS[kind] == 4 else F32


def instruction(count):
    """A function of Numba's with `count` integers, whose body is `function(builder, *values)`."""

    def made(function):
        names = ", ".join(f"a{i}" for i in range(count))
        scope = {"codegen": _codegen(function), "signature": types.void(*[types.int64] * count)}
        exec(f"def {function.__name__}(typing, {names}): return signature, codegen", scope)
        return intrinsic(scope[function.__name__])

    return made


def _codegen(function):
    def codegen(context, builder, signature, values):
        function(Builder(builder), *values)
        return context.get_dummy_value()

    return codegen


@intrinsic
def _pointer(typing, address):

    def codegen(context, builder, signature, values):
        return builder.inttoptr(values[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), codegen


@intrinsic
def address_of(typing, array):
    """Where an array's numbers start."""

    def codegen(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.ptrtoint(data, I64)

    return types.int64(array), codegen


@jit()
def keep(array):
    """An array of which only the address is used lives at least until here."""
    return len(array)


@jit()
def floats(address, count):
    """`count` float32 behind an address."""
    return carray(_pointer(address), (count,), np.float32)


@jit()
def int32s(address, count):
    """`count` int32 behind an address."""
    return carray(_pointer(address), (count,), np.int32)


@jit()
def int8s(address, count):
    """`count` int8 behind an address."""
    return carray(_pointer(address), (count,), np.int8)


@jit()
def int64s(address, count):
    """`count` int64 behind an address."""
    return carray(_pointer(address), (count,), np.int64)


@jit()
def uint16s(address, count):
    """`count` uint16 behind an address, as which bfloat16 are read."""
    return carray(_pointer(address), (count,), np.uint16)


class Builder:
    """llvmlite's builder in this room's words; addresses are integers, and count bytes."""

    def __init__(self, builder):
        self.llvm = builder

    def at(self, base, *offsets):
        """base + the sum of offsets; integers of Python are constants."""
        for offset in offsets:
            base = self.llvm.add(base, I64(offset) if isinstance(offset, int) else offset)
        return base

    def within(self, first, count, total):
        """The numbers first, first + 1, … of `count` things; the last of all stands for those that are not there."""
        last = self.llvm.sub(total, I64(1))
        asked = [self.at(first, i) for i in range(count)]
        return [self.llvm.select(self.llvm.icmp_signed("<", i, total), i, last) for i in asked]

    def times(self, value, factor):
        return self.llvm.mul(value, I64(factor) if isinstance(factor, int) else factor)

    def load(self, address, kind, count=None, align=1):
        kind = kind if count is None else ir.VectorType(kind, count)
        return self.llvm.load(self.llvm.inttoptr(address, kind.as_pointer()), align=align)

    def store(self, value, address):
        self.llvm.store(value, self.llvm.inttoptr(address, value.type.as_pointer()), align=4)

    def splat(self, scalar, count=LANES):
        """The same number in every lane."""
        kind = ir.VectorType(scalar.type, count)
        first = self.llvm.insert_element(ir.Constant(kind, ir.Undefined), scalar, I32(0))
        return self.shuffle(first, first, [0] * count)

    def shuffle(self, a, b, lanes):
        return self.llvm.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))

    def extract(self, vector, lane):
        return self.llvm.extract_element(vector, I32(lane))

    def zeros(self, kind, count=LANES):
        return ir.Constant(ir.VectorType(kind, count), [0] * count)

    def widened(self, address, kind, count=LANES):
        """`count` weights as float32."""
        if kind == FLOAT32:
            return self.load(address, F32, count)
        if kind == INT8:
            return self.llvm.sitofp(self.load(address, I8, count), ir.VectorType(F32, count))
        upper = self.llvm.zext(self.load(address, I16, count), ir.VectorType(I32, count))
        shifted = self.llvm.shl(upper, ir.Constant(upper.type, [16] * count))
        return self.llvm.bitcast(shifted, ir.VectorType(F32, count))

    def multiply_add(self, total, a, b):
        """total + a b, rounded once where the processor can."""
        name = "llvm.fmuladd.f32" if total.type == F32 else f"llvm.fmuladd.v{total.type.count}f32"
        function = ir.FunctionType(total.type, [total.type] * 3)
        return self.llvm.call(cgutils.get_or_insert_function(self.llvm.module, function, name), [a, b, total])

    def dot(self, total, weights, inputs, kind):
        """total + weights · inputs, lane by lane; a lane is a float32, a pair of bfloat16 or a quad of int8 (weights + 128)."""
        if FOLDS[kind] == 1:
            return self.multiply_add(total, weights, inputs)
        name = {BFLOAT16: "vdpbf16ps", INT8: "vpdpbusd"}[kind]
        function = ir.FunctionType(total.type, [total.type, weights.type, inputs.type])
        return self.llvm.asm(function, f"{name} $3, $2, $0", "=v,0,v,v", [total, weights, inputs], False)

    def sum(self, vector):
        """All lanes together."""
        whole = vector.type.element == F32
        name = f"llvm.vector.reduce.{'fadd' if whole else 'add'}.v{vector.type.count}{'f32' if whole else 'i32'}"
        kinds = [F32, vector.type] if whole else [vector.type]
        function = cgutils.get_or_insert_function(self.llvm.module, ir.FunctionType(vector.type.element, kinds), name)
        values = [ir.Constant(F32, 0.0), vector] if whole else [vector]
        return self.llvm.call(function, values, fastmath=("reassoc",) if whole else ())

    def largest(self, vector):
        """The largest of all lanes."""
        found = self.extract(vector, 0)
        for lane in range(1, vector.type.count):
            other = self.extract(vector, lane)
            found = self.llvm.select(self.llvm.fcmp_ordered(">", other, found), other, found)
        return found

    def sums(self, four):
        """The sum of each of four vectors, side by side in one."""
        count, add = four[0].type.count, self.llvm.fadd if four[0].type.element == F32 else self.llvm.add
        quads = range(0, count, 4)
        zipped = [[i + lane + side for i in quads for lane in pair for side in (0, count)] for pair in ((0, 1), (2, 3))]
        joined = [[i + lane + side for i in quads for side in (0, count) for lane in pair] for pair in ((0, 1), (2, 3))]
        ab, cd = (add(*(self.shuffle(*pair, lanes) for lanes in zipped)) for pair in (four[:2], four[2:]))
        total = add(*(self.shuffle(ab, cd, lanes) for lanes in joined))
        while (half := total.type.count // 2) >= 4:
            total = add(*(self.shuffle(total, total, list(lanes)) for lanes in (range(half), range(half, 2 * half))))
        return total

    def prefetch(self, address):
        kinds = [I8.as_pointer(), I32, I32, I32]
        function = cgutils.get_or_insert_function(self.llvm.module, ir.FunctionType(ir.VoidType(), kinds), "llvm.prefetch.p0")
        self.llvm.call(function, [self.llvm.inttoptr(address, I8.as_pointer()), I32(0), I32(3), I32(1)])

    def loop(self, stop, step, body, carried=()):
        """body(i, carried) -> carried, for i = 0, step, 2 step, … below stop; returns what the last one carried."""
        b, before = self.llvm, self.llvm.block
        head, inside, end = (b.append_basic_block(name) for name in ("head", "body", "end"))
        b.branch(head)
        b.position_at_end(head)
        i, phis = b.phi(I64), [b.phi(value.type) for value in carried]
        for phi, value in zip([i, *phis], [I64(0), *carried], strict=True):
            phi.add_incoming(value, before)
        b.cbranch(b.icmp_signed("<", i, stop), inside, end)
        b.position_at_end(inside)
        values = body(i, phis) or ()
        for phi, value in zip([i, *phis], [b.add(i, I64(step)), *values], strict=True):
            phi.add_incoming(value, b.block)
        b.branch(head)
        b.position_at_end(end)
        return phis
