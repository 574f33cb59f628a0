"""Formulas of docstrings as TeX: `v = beta2 * v + (1 - beta2) * g^2`, one a line, then a remark in brackets."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

LINE = re.compile(r"(?P<left>\w+) = (?P<right>.*?)(?:\s{2,}\((?P<remark>.*)\))?\s*")

GREEK = {"alpha", "beta", "gamma", "delta", "lambda", "mu", "rho"}
SYMBOLS = {"eps": r"\epsilon", "inf": r"\infty"}

OPERATORS = {ast.Add: "+", ast.Sub: "-"}
SUM, PRODUCT, UNARY, POWER, ATOM = range(5)
"""How tightly an expression binds; one that binds less tightly than its place needs brackets."""


def block(lines: Sequence[str]) -> str | None:
    """The lines as one aligned formula; None if one of them is not a formula in this notation."""
    shown = []
    for line in lines:
        match = LINE.fullmatch(line.strip())
        try:
            tree = ast.parse(notation(match["right"]), mode="eval").body if match else None
            if match is None or tree is None:
                return None
            remark = rf" & \quad \text{{({match['remark'].replace('`', '')})}}" if match["remark"] else ""
            shown.append(rf"{name(match['left'])} &\leftarrow {tex(tree)[0]}{remark}")
        except (SyntaxError, KeyError, TypeError):
            return None
    return r"\begin{aligned} " + r" \\ ".join(shown) + r" \end{aligned}"


def notation(text: str) -> str:
    """As Python has it."""
    text = re.sub(r"\|([^|]+)\|", r"abs(\1)", text)
    return re.sub(r"(\w+)_\(t\+1\)", r"\1_next", text).replace("^", "**")


def name(text: str) -> str:
    """A name as a symbol: Greek letters, indices of letters and numbers, words upright."""
    letter, _, index = text.partition("_")
    if not index and (numbered := re.fullmatch(r"([A-Za-z]+)(\d)", text)):
        letter, index = numbered.groups()
    numbered = re.fullmatch(r"([a-z]+)(\d)", letter)
    if numbered and numbered[1] in GREEK:
        letter, index = numbered[1], f"{numbered[2]},{index}"
    if letter in GREEK or len(letter) == 1:
        index = {"next": "t+1", "inf": r"\infty"}.get(index, index)
        return (f"\\{letter}" if letter in GREEK else letter) + (f"_{{{index}}}" if index else "")
    return SYMBOLS.get(text) or rf"\text{{{text}}}"


def tex(node: ast.expr) -> tuple[str, int]:
    """An expression and how tightly it binds."""

    def within(inner: ast.expr, least: int) -> str:
        text, binding = tex(inner)
        return text if binding >= least else rf"\left({text}\right)"

    match node:
        case ast.Constant():
            return str(node.value), ATOM
        case ast.Name():
            return name(node.id), ATOM
        case ast.UnaryOp(op=ast.USub()):
            return f"-{within(node.operand, UNARY)}", UNARY
        case ast.BinOp(left=ast.BinOp(left=ast.BinOp(op=ast.Div()), op=ast.Mult()), op=ast.Div()):  # a / b * (c / d)
            last = rf"\frac{{{tex(node.left.right)[0]}}}{{{tex(node.right)[0]}}}"
            return rf"{within(node.left.left, PRODUCT)} \, {last}", PRODUCT
        case ast.BinOp(op=ast.Div()):
            return rf"\frac{{{tex(node.left)[0]}}}{{{tex(node.right)[0]}}}", ATOM
        case ast.BinOp(op=ast.Mult()):
            return rf"{within(node.left, PRODUCT)} \, {within(node.right, UNARY)}", PRODUCT
        case ast.BinOp(op=ast.Pow()):
            return f"{within(node.left, ATOM)}^{{{tex(node.right)[0]}}}", POWER
        case ast.BinOp():
            right = within(node.right, PRODUCT if isinstance(node.op, ast.Sub) else SUM)
            return f"{within(node.left, SUM)} {OPERATORS[type(node.op)]} {right}", SUM
        case ast.Call(func=ast.Name(id="sqrt"), args=[argument]):
            return rf"\sqrt{{{tex(argument)[0]}}}", ATOM
        case ast.Call(func=ast.Name(id="abs"), args=[argument]):
            return rf"\left|{tex(argument)[0]}\right|", ATOM
        case ast.Call(func=ast.Name()):
            arguments = ", ".join(tex(each)[0] for each in node.args)
            return rf"\operatorname{{{node.func.id}}}\left({arguments}\right)", ATOM
    raise TypeError(ast.dump(node))
