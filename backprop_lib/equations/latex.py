r"""Print a statement as a textbook would: \sum_n \frac{\partial L}{\partial z_{nh}}\, x_{nd}.

The order of factors and terms is the one typed in the ledger. An expression this printer has no rule for is an error.
"""

import re

import sympy

from .language import size


SUM, PRODUCT, ATOM = 1, 2, 3                                    # how tightly a piece of LaTeX holds together
WORDS = {sympy.log: r"\log", sympy.tanh: r"\tanh"}
RELATIONS = {sympy.Gt: ">", sympy.Ge: r"\ge", sympy.Lt: "<", sympy.Le: r"\le", sympy.Eq: "=", sympy.Ne: r"\ne"}


class Printer:
    """Turns one expression into LaTeX; `tex` maps names of more than one letter to what is set."""

    def __init__(self, tex):
        if len(set(tex.values())) < len(tex) or any("_" in text for text in tex.values()):
            raise ValueError("TEX: two names set alike, or a subscript in a name (indices follow it): write W^{ih}")
        self.tex = tex
        self.meaning = {}                                       # what each name already printed stands for
        self.in_subscript = False                               # where a fraction is a slash, to be legible

    def __call__(self, e, level=SUM):
        """LaTeX of e, in parentheses if e holds together less tightly than `level` asks."""
        text, holds = self.show(e)
        return text if holds >= level else rf"\left( {text} \right)"

    def show(self, e):
        for kind, method in self.KINDS.items():
            if isinstance(e, kind):
                return method(self, e)
        raise TypeError(f"the printer has no rule for {type(e).__name__} in {e}")

    def name(self, name):
        """A name without its indices: dW is the derivative of L with respect to W."""
        if name not in self.tex and len(name.rstrip("'")) != 1:
            raise ValueError(f"name {name!r}: say in the family's TEX how it is set")
        text = self.tex.get(name, name)
        if self.meaning.setdefault(text, name) != name:
            raise ValueError(f"{text!r} would stand for {name} and for {self.meaning[text]}")
        return text

    def symbol(self, e):
        if e.is_integer:
            if not re.fullmatch(r"[a-zA-Z]('*|_\d)", e.name):
                raise ValueError(f"{e.name!r} reads as something else: an index is one letter, k' or u_0")
            return e.name, ATOM
        if e.name.startswith("d") and len(e.name) > 1 and e.name not in self.tex:
            return rf"\frac{{\partial L}}{{\partial {self.name(e.name[1:])}}}", ATOM
        return self.name(e.name), ATOM

    def indexed(self, e):
        name = str(e.base)
        single = all(isinstance(i, sympy.Symbol) and "_" not in i.name for i in e.indices)
        outside, self.in_subscript = self.in_subscript, True
        subscript = ("" if single else ", ").join(self(i) for i in e.indices)
        self.in_subscript = outside
        if name.startswith("d") and len(name) > 1 and name not in self.tex:
            return rf"\frac{{\partial L}}{{\partial {self.name(name[1:])}_{{{subscript}}}}}", ATOM
        return f"{self.name(name)}_{{{subscript}}}", ATOM

    def sum(self, e):
        """A sum or a product over whole axes."""
        sign, kind = (r"\sum", sympy.Sum) if isinstance(e, sympy.Sum) else (r"\prod", sympy.Product)
        body, letters = e.function, []
        while isinstance(e, kind):
            for index, low, high in e.limits:
                if low != 0 or sympy.expand(high - size(index) + 1) != 0:
                    raise ValueError(f"only sums over a whole axis are a bare letter, not {(index, low, high)}")
            letters += [self(index) for index, _, _ in reversed(e.limits)]
            body = e = strip_one(e.function)
        return rf"{sign}_{{{', '.join(letters)}}} {self(body, PRODUCT)}", PRODUCT

    def plus(self, e):
        text = ""
        for a in e.args:
            minus, positive = without_minus(a)
            # the first of several terms may itself be a sum: (a + b) + c is read from left to right
            term = self(positive, PRODUCT if text or minus else SUM)
            text += (" - " if minus else " + ") + term if text else ("-" if minus else "") + term
        return text, SUM

    def product(self, e):
        minus, positive = without_minus(e)
        if minus:
            return "-" + self(positive, PRODUCT), SUM
        e = strip_one(e)
        if not isinstance(e, sympy.Mul):
            return self.show(e)
        if is_quotient(e):
            numerator = sympy.Mul(*e.args[:-1], evaluate=False) if len(e.args) > 2 else e.args[0]
            if self.in_subscript:
                return f"{self(numerator, PRODUCT)} / {self(e.args[-1].base, ATOM)}", PRODUCT
            if r"\frac" not in self(numerator):
                return rf"\frac{{{self(numerator)}}}{{{self(e.args[-1].base)}}}", ATOM
        args = list(e.args)
        while isinstance(args[0], sympy.Mul) and not without_minus(args[0])[0] and swallows(args[0]):
            args[:1] = args[0].args                             # (a log b) c: the logarithm is not last after all
        text = self.factor(args[0], last=False)
        for before, a in zip(args, args[1:]):
            numbers = before.is_Rational and a.is_Rational
            text += (r" \cdot " if numbers else r"\, ") + self.factor(a, last=a is args[-1])
        return text, PRODUCT

    def factor(self, a, last):
        if self.in_subscript and is_quotient(a):
            return rf"\left( {self(a)} \right)"                 # a / b c could be a / (b c)
        return self(a, PRODUCT) if last or not swallows(a) else rf"\left( {self(a)} \right)"

    def power(self, e):
        if e.exp == -1:
            return rf"\frac{{1}}{{{self(e.base)}}}", ATOM
        if e.exp == sympy.S.Half:
            return rf"\sqrt{{{self(e.base)}}}", ATOM
        base = self(e.base, ATOM)
        # a subscripted name carries its exponent as it is; a fraction or a second exponent needs parentheses
        if base.startswith(r"\frac") or isinstance(e.base, (sympy.Pow, sympy.exp)) or "^" in base.split("_")[0]:
            base = rf"\left( {base} \right)"
        return f"{base}^{{{self(e.exp)}}}", ATOM

    def piecewise(self, e):
        rows = [f"{self(branch)} & " + (r"\text{otherwise}" if condition == sympy.true else r"\text{if } "
                                         + self(condition)) for branch, condition in e.args]
        return r"\begin{cases} " + r" \\ ".join(rows) + r" \end{cases}", ATOM

    def word(self, e):
        return f"{WORDS[e.func]} {self(e.args[0], PRODUCT)}", PRODUCT

    def bracket(self, e):
        """[a > b] for the step of a - b."""
        low = "0"
        high = e.args[0]
        if isinstance(high, sympy.Add) and len(high.args) == 2 and without_minus(high.args[1])[0]:
            high, low = high.args[0], self(without_minus(high.args[1])[1])
        return f"[{self(high)} > {low}]", ATOM

    def sign(self, e):
        return rf"\mathrm{{sign}}\left( {self(e.args[0])} \right)", ATOM

    KINDS = {
        sympy.Indexed: indexed,
        sympy.Sum: sum,
        sympy.Product: sum,
        sympy.Symbol: symbol,
        sympy.Integer: lambda self, e: (str(e), ATOM if e >= 0 else SUM),
        sympy.Rational: lambda self, e: (rf"\frac{{{e.p}}}{{{e.q}}}", ATOM),
        sympy.Add: plus,
        sympy.Mul: product,
        sympy.Pow: power,
        sympy.exp: lambda self, e: (f"e^{{{self(e.args[0])}}}", ATOM),
        sympy.Abs: lambda self, e: (rf"\left| {self(e.args[0])} \right|", ATOM),
        sympy.Max: lambda self, e: (rf"\max\left( {', '.join(map(self, e.args))} \right)", ATOM),
        sympy.KroneckerDelta: lambda self, e: (f"[{self(e.args[0])} = {self(e.args[1])}]", ATOM),
        sympy.Heaviside: bracket,
        sympy.floor: lambda self, e: (rf"\left\lfloor {self(e.args[0])} \right\rfloor", ATOM),
        sympy.sign: sign,
        sympy.Piecewise: piecewise,
        sympy.core.relational.Relational: lambda self, e: (f"{self(e.lhs)} {RELATIONS[e.func]} {self(e.rhs)}", SUM),
        **dict.fromkeys(WORDS, word),
    }


def swallows(e):
    """A sum or a logarithm reaches as far as the product goes on; so does a product that ends in one."""
    return (isinstance(e, (sympy.Sum, sympy.Product)) or type(e) in WORDS
            or isinstance(e, sympy.Mul) and swallows(e.args[-1]))


def is_quotient(e):
    return isinstance(e, sympy.Mul) and isinstance(e.args[-1], sympy.Pow) and e.args[-1].exp == -1


def without_minus(e):
    """(True, x) for an expression typed as -x, else (False, e)."""
    if isinstance(e, sympy.Mul):
        first, *rest = e.args
        minus, positive = (True, sympy.S.One) if first == -1 else without_minus(first)
        if minus:
            return True, strip_one(sympy.Mul(positive, *rest, evaluate=False))
    if isinstance(e, sympy.Number) and e < 0:
        return True, -e
    return False, e


def strip_one(e):
    """Drop the factors 1 that SymPy puts in front, keeping the order typed."""
    while isinstance(e, sympy.Mul) and 1 in e.args:
        args = [a for a in e.args if a != 1]
        e = args[0] if len(args) == 1 else sympy.Mul(*args, evaluate=False)
    return e


def render(statement, tex):
    """The display block of a statement, as it stands in the notebooks."""
    printer = Printer(tex)
    return f"$$\n{printer(statement.lhs)} = {printer(statement.rhs)} \\tag{{{statement.label}}}\n$$"
