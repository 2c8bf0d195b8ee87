"""What a start needs of ``ctypes``, of the same names, from the extension module that ``ctypes`` is made of.

Importing ``ctypes`` itself takes 1.3 ms: for types, pointers and foreign byte orders that nobody asks for here.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctypes import (
        CDLL,
        PyDLL,
        Structure,
        addressof,
        c_char,
        c_char_p,
        c_int,
        c_long,
        c_size_t,
        c_uint,
        c_uint32,
        c_uint64,
        c_void_p,
        create_string_buffer,
        get_errno,
    )
else:
    from _ctypes import (
        FUNCFLAG_CDECL,
        FUNCFLAG_PYTHONAPI,
        FUNCFLAG_USE_ERRNO,
        CFuncPtr,
        Structure,
        _SimpleCData,
        addressof,
        dlopen,
        get_errno,
    )

    class c_char(_SimpleCData):
        _type_ = "c"

    class c_int(_SimpleCData):
        _type_ = "i"

    class c_uint(_SimpleCData):
        _type_ = "I"

    class c_long(_SimpleCData):
        _type_ = "l"

    class c_size_t(_SimpleCData):
        _type_ = "L"

    class c_void_p(_SimpleCData):
        _type_ = "P"

    class c_char_p(_SimpleCData):
        _type_ = "z"

    c_uint32, c_uint64 = c_uint, c_size_t  # on all that this program runs on

    class CDLL:
        """See ``ctypes``; of the program itself only."""

        _flags = FUNCFLAG_CDECL

        def __init__(self, name, use_errno=False):
            self._handle = dlopen(name, 0)
            flags = self._flags | FUNCFLAG_USE_ERRNO if use_errno else self._flags
            self._function = type(CFuncPtr)("_FuncPtr", (CFuncPtr,), {"_flags_": flags, "_restype_": c_int})

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            found = self[name]
            setattr(self, name, found)
            return found

        def __getitem__(self, name):
            return self._function((name, self))

    class PyDLL(CDLL):
        """See ``ctypes``: the GIL is kept."""

        _flags = FUNCFLAG_CDECL | FUNCFLAG_PYTHONAPI

    def create_string_buffer(init, size=None):
        """See ``ctypes``."""
        given = isinstance(init, bytes)
        made = (c_char * (size if size is not None else len(init) + 1 if given else init))()
        if given:
            made.value = init
        return made


__all__ = [
    "CDLL",
    "PyDLL",
    "Structure",
    "addressof",
    "c_char",
    "c_char_p",
    "c_int",
    "c_long",
    "c_size_t",
    "c_uint",
    "c_uint32",
    "c_uint64",
    "c_void_p",
    "create_string_buffer",
    "get_errno",
]
