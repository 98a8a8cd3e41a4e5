"""Odd files, each as what `init` would be given: columns person, load, hours, kind, late."""

from __future__ import annotations

import gzip

HEAD = "person,load,hours,kind,late\n"
GOOD = (
    "a1,0.5,3,red,yes\na2,1.5,40,green,no\na3,2.5,7,blue,no\na4,3.5,9,red,no\n"
    "a5,0.25,12,red,yes\na6,4.5,8,green,no\na7,0.75,5,blue,no\na8,1.25,6,red,no\n"
)


def _with(*rows: str, head: str = HEAD) -> bytes:
    return (head + GOOD + "".join(f"{row}\n" for row in rows)).encode()


ODD: dict[str, bytes] = {
    "nothing odd": _with(),
    "no newline at the end": _with().removesuffix(b"\n"),
    "CRLF": _with().replace(b"\n", b"\r\n"),
    "CR alone": _with().replace(b"\n", b"\r"),
    "CR in a row": _with("b1\r,1.5,3,red,no"),
    "byte-order mark": b"\xef\xbb\xbf" + _with(),
    "UTF-16": (HEAD + GOOD).encode("utf-16"),
    "latin-1": _with("b1,1.5,3,gr\u00fcn,no").decode().encode("latin-1"),
    "gzip": gzip.compress(_with(), mtime=0),
    "NUL": _with("b1,1.5,3,r\0d,no"),
    "blank lines": _with("", "b1,1.5,3,red,no", "", ""),
    "line of blanks": _with("   "),
    "quoted newline": _with('b1,1.5,3,"two\nlines",no'),
    "quoted CRLF": _with('b1,1.5,3,"two\r\nlines",no'),
    "doubled quotes": _with('b1,1.5,3,"say ""hi""",no'),
    "stray quotes": _with('b1,1.5,3,5" by 4",no'),
    "one stray quote": _with('b1,1.5,3,5" pipe,no'),
    "quote that never closes": _with('b1,1.5,3,"red,no'),
    "quotes that TFX never comes back from": _with('b1,1.5,3,x"y,"no'),
    "text after quotes": _with('b1,1.5,3,"red"dish,no'),
    "blank before quotes": _with('b1,1.5,3, "red",no'),
    "blanks around categories": _with("b1,1.5,3, red,no", "b2,1.5,3,red ,no"),
    "blanks around numbers": _with("b1, 1.5,3 ,red,no"),
    "blanks around keys": _with("a1 ,1.5,3,red,no", " a1,1.5,3,red,no"),
    "empty cells": _with("b1,,3,red,no", "b2,1.5,,red,no", "b3,1.5,3,,no"),
    "empty key": _with(",1.5,3,red,no"),
    "empty label": _with("b1,1.5,3,red,"),
    "NaN among numbers": _with("b1,NaN,3,red,no", "b2,nan,3,red,no"),
    "NaN among integers": _with("b1,1.5,NaN,red,no"),
    "NaN among texts": _with("b1,1.5,3,NaN,no"),
    "infinity": _with("b1,inf,3,red,no"),
    "too large for 32 bits": _with("b1,1e39,3,red,no"),
    "integers of more than 64 bits": _with("b1,1.5,99999999999999999999,red,no"),
    "largest integers": _with("b1,1.5,9223372036854775807,red,no", "b2,1.5,-9223372036854775808,red,no"),
    "leading zeros": _with("007,1.5,003,007,no", "7,1.5,3,7,no"),
    "a million as a category": _with("b1,1.5,3,1000000,no", "b2,1.5,3,1e6,no"),
    "numbers as Python writes them": _with("b1,1_0.5,1_0,red,no", "b2,+1.5,+3,red,no"),
    "digits that are not ASCII": _with("b1,1.5,\u0663,red,no"),
    "non-ASCII": _with("Zo\u00eb,1.5,3,gr\u00fcn,no", "Zoe\u0308,1.5,3,\u65e5\u672c,no", "b3,1.5,3,\u00a0red,no"),
    "integer keys": _with().replace(b"\na", b"\n").replace(b"\n3,", b"\n003,"),
    "keys of more than 64 bits": _with().replace(b"\na", b"\n1234567890123456789"),
    "fractions as keys": _with().replace(b"\na", b"\n0."),
    "too many cells": _with("b1,1.5,3,red,no,more"),
    "too few cells": _with("b1,1.5"),
    "a long cell": _with(f"b1,1.5,3,{'x' * 131_072},no"),
    "a cell that is too long": _with(f"b1,1.5,3,{'x' * 131_073},no"),
    "a category of 1,024 bytes": _with(f"b1,1.5,3,{'x' * 1024},no"),
    "a text of 1,025 bytes": _with(f"b1,1.5,3,{'x' * 1025},no"),
    "no rows": HEAD.encode(),
    "no header": b"",
    "a name twice": _with(head=HEAD.replace("load", "kind")),
    "quoted header": _with(head=HEAD.replace("load", '"load"')),
}
