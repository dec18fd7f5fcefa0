r"""Reads the LaTeX of an equation back and computes it with plain loops.

Written from the conventions a human reader uses (\partial L / \partial z is dz, a sum reaches as far as the product
that follows it, [a > b] is 1 or 0), not from the printer: so a lost minus sign or parenthesis shows.
"""

import math
import re


TOKEN = re.compile(r"\\left\(|\\right\)|\\left\||\\right\||\\left\\lfloor|\\right\\rfloor|\\begin\{cases\}"
                   r"|\\end\{cases\}|\\text\{[^}]*\}|\\mathrm\{sign\}|\\\\|\\,|\\[a-zA-Z]+|\d+|[a-zA-Z]'*"
                   r"|[-+=<>^_{}\[\],&/]")


class Reader:
    """A recursive-descent parser whose rules return functions of the index values."""

    def __init__(self, text, values, sizes, tex):
        self.values, self.sizes = values, sizes
        self.names = {tuple(TOKEN.findall(t)): name for name, t in tex.items()}
        self.tokens = TOKEN.findall(text)
        if "".join(self.tokens) != re.sub(r"\s", "", text).replace(r"\text{if}", r"\text{if }"):
            raise ValueError(f"unread characters in {text!r}: {self.tokens}")
        self.at = 0

    def peek(self, n=0):
        return self.tokens[self.at + n] if self.at + n < len(self.tokens) else ""

    def take(self, expected=None):
        token = self.peek()
        if expected is not None and token != expected:
            raise ValueError(f"expected {expected!r}, read {token!r} after {self.tokens[:self.at]}")
        self.at += 1
        return token

    def group(self):
        self.take("{")
        value = self.expression()
        self.take("}")
        return value

    def expression(self):
        minus = self.peek() == "-" and bool(self.take())
        first = self.product()
        terms = [(lambda i, f=first: -f(i)) if minus else first]
        while self.peek() in ("+", "-"):
            sign, term = -1 if self.take() == "-" else 1, self.product()
            terms.append(lambda i, f=term, s=sign: s * f(i))
        return lambda i: math.fsum(f(i) for f in terms)

    STOP = ("", "+", "-", "}", "]", r"\right)", r"\right|", r"\right\rfloor", ",", "&", r"\\",
            r"\end{cases}", "=", ">", "<")

    def product(self):
        first, rest = self.power(), []
        while self.peek() not in self.STOP and not self.peek().startswith(r"\text"):
            sign = self.take()
            if sign not in (r"\,", r"\cdot", "/"):              # x_{nu_0} could be two subscripts or a product
                raise ValueError(f"two factors run together after {self.tokens[:self.at]}")
            if sign != "/" and any(s == "/" for s, _ in rest):  # a / b c could be a / (b c)
                raise ValueError(f"a factor follows a slash: {self.tokens[:self.at]}")
            rest.append((sign, self.power()))

        def run(i):
            value = first(i)
            for sign, factor in rest:
                value = value / factor(i) if sign == "/" else value * factor(i)
            return value
        return run

    def power(self):
        base = self.atom()
        if self.peek() == "^":
            self.take()
            exponent = self.group()
            return lambda i: base(i)**exponent(i)
        return base

    def atom(self):
        token = self.peek()
        if token.isdigit():
            value = int(self.take())
            return lambda i: value
        if token == r"\left(":
            return self.between(r"\left(", r"\right)")
        if token == r"\left|":
            inside = self.between(r"\left|", r"\right|")
            return lambda i: abs(inside(i))
        if token == r"\left\lfloor":
            inside = self.between(r"\left\lfloor", r"\right\rfloor")
            return lambda i: math.floor(inside(i) + 1e-9)       # 49 * (1 / 49) is less than 1
        if token == "[":
            return self.bracket()
        if token == "e" and self.peek(1) == "^":
            self.at += 2
            exponent = self.group()
            return lambda i: math.exp(exponent(i))
        if token == r"\sqrt":
            self.take()
            inside = self.group()
            return lambda i: math.sqrt(inside(i))
        rule = {r"\frac": self.fraction, r"\sum": self.sum, r"\prod": self.sum, r"\max": self.max,
                r"\begin{cases}": self.cases}.get(token)
        if rule:
            return rule()
        if token == r"\mathrm{sign}":
            self.take()
            inside = self.between(r"\left(", r"\right)")
            return lambda i: (inside(i) > 0) - (inside(i) < 0)
        if token in (r"\log", r"\tanh") and not self.known_name():
            self.take()
            argument = self.product()
            function = {r"\log": math.log, r"\tanh": math.tanh}[token]
            return lambda i: function(argument(i))
        return self.variable()

    def between(self, opening, closing):
        self.take(opening)
        inside = self.expression()
        self.take(closing)
        return inside

    def bracket(self):
        self.take("[")
        condition = self.condition()
        self.take("]")
        return lambda i: float(condition(i))

    def condition(self):
        left, relation, right = self.expression(), self.take(), self.expression()
        compare = {"=": lambda a, b: a == b, ">": lambda a, b: a > b, "<": lambda a, b: a < b}[relation]
        return lambda i: compare(left(i), right(i))

    def fraction(self):
        self.take(r"\frac")
        if self.tokens[self.at:self.at + 3] == ["{", r"\partial", "L"]:
            for token in ("{", r"\partial", "L", "}", "{", r"\partial"):
                self.take(token)
            derivative = self.variable(prefix="d")
            self.take("}")
            return derivative
        above, below = self.group(), self.group()
        return lambda i: above(i) / below(i)

    def sum(self):
        combine = {r"\sum": math.fsum, r"\prod": math.prod}[self.take()]
        for token in ("_", "{"):
            self.take(token)
        letters = []
        while self.peek() != "}":
            letters.append(self.take())
            if self.peek() == ",":
                self.take()
        self.take("}")
        body = self.product()

        def run(i, rest=tuple(letters)):
            if not rest:
                return body(i)
            size = self.sizes[rest[0].rstrip("'").upper()]
            return combine(run({**i, rest[0]: v}, rest[1:]) for v in range(size))
        return run

    def max(self):
        self.take(r"\max")
        self.take(r"\left(")
        left = self.expression()
        self.take(",")
        right = self.expression()
        self.take(r"\right)")
        return lambda i: max(left(i), right(i))

    def cases(self):
        self.take(r"\begin{cases}")
        value = self.expression()
        self.take("&")
        self.take(r"\text{if }")
        condition = self.condition()
        self.take(r"\\")
        other = self.expression()
        self.take("&")
        self.take(r"\text{otherwise}")
        self.take(r"\end{cases}")
        return lambda i: value(i) if condition(i) else other(i)

    def known_name(self):
        r"""The longest run of tokens from here that is a name of several letters: \log p, but not \log of a sum."""
        runs = [run for run in self.names if tuple(self.tokens[self.at:self.at + len(run)]) == run]
        return max(runs, key=len, default=())

    def variable(self, prefix=""):
        run = self.known_name() or (self.peek(),)
        self.at += len(run)
        name = prefix + self.names.get(run, run[0])
        if self.peek() != "_":
            return lambda i: i[name] if name in i else float({**self.sizes, **self.values}[name])
        self.take("_")
        if self.peek().isdigit():                               # u_0, one of two numbers
            number = f"{name}_{self.take()}"
            if len(self.tokens[self.at - 1]) > 1:
                raise ValueError(f"{number}: TeX lowers the first digit only")
            return lambda i: self.sizes[number]
        self.take("{")
        letters = all(re.fullmatch("[a-zA-Z]'*", t) for t in self.tokens[self.at:self.tokens.index("}", self.at)])
        subscripts = []
        while self.peek() != "}":
            subscripts.append(self.variable() if letters else self.expression())
            if self.peek() == ",":
                self.take()
        self.take("}")

        def gather(i):
            where = tuple(s(i) for s in subscripts)
            array = self.values[name]
            if any(w != int(w) for w in where):
                raise ValueError(f"{name}: a subscript is not a whole number")
            where = tuple(map(int, where))
            if not all(0 <= w < length for w, length in zip(where, array.shape)):
                return 0.0
            return float(array[where])
        return gather


def read_side(text, values, sizes, tex):
    """A function of {index letter: value} that computes one side of an equation."""
    reader = Reader(text, values, sizes, tex)
    compute = reader.expression()
    if reader.at != len(reader.tokens):
        raise ValueError(f"stopped before {reader.tokens[reader.at:]}")
    return compute
