"""Inner loops that are compiled once, and called by their name from every program.

Numba copies what a function calls into it and compiles the whole again: with these loops inside, each program would take
seconds. A linked function takes integers (counts, flags, addresses) or tuples of them, and is found by the linker, in this
process or in what the cache on disk has of it.
"""

import threading
from typing import Any

import llvmlite.binding
from numba.core import cgutils, types
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic

from ..forking import free_after_fork
from ..kernels.jit import jit

__all__ = ["LINKING", "link", "linked"]

_WAITING: dict[str, Any] = {}
free_after_fork(global_compiler_lock)
LINKING = free_after_fork(threading.RLock())
"""Held while functions are compiled and made known; it comes before the compiler's lock, in a fork too."""


def linked(*kinds):
    """A function of such arguments that gives nothing back, for compiled code to call.

    kinds       `int`, or a class of named tuples of integers
    """

    def made(function):
        symbol = f"switchnp_{function.__name__}"
        signature = types.void(*[_numba_type(kind) for kind in kinds])
        _WAITING[symbol] = signature, jit()(function)
        names = ", ".join(f"a{i}" for i in range(len(kinds)))
        scope = {"codegen": _call(symbol), "signature": signature}
        exec(f"def {function.__name__}(typing, {names}): return signature, codegen", scope)
        return intrinsic(scope[function.__name__])

    return made


def _numba_type(kind):
    return types.int64 if kind is int else types.NamedUniTuple(types.int64, len(kind._fields), kind)


def _call(symbol):
    def codegen(context, builder, signature, values):
        kind = context.call_conv.get_function_type(signature.return_type, signature.args)
        callee = cgutils.get_or_insert_function(builder.module, kind, symbol)
        context.call_conv.call_function(builder, callee, signature.return_type, signature.args, values)
        return context.get_dummy_value()

    return codegen


def link():
    """See that every linked function is compiled and known to the linker; costs nothing where it is."""
    if not _WAITING:
        return
    with LINKING:
        for symbol, (signature, function) in list(_WAITING.items()):
            function.compile(signature)
            compiled = function.overloads[signature.args]
            address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
            llvmlite.binding.add_symbol(symbol, address)
            del _WAITING[symbol]
