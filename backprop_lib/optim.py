"""Optimisers: what to do with a gradient once backpropagation has found it.

Rules, defaults and results are those of `torch.optim` (SGD, Adagrad, RMSprop, Adam). Below, p is a parameter, g its
gradient (plus weight_decay p, if asked for), lr the learning rate; squares, roots and quotients are taken entry by
entry, and v, m, s, k start at 0. `step()` changes the parameter arrays in place and keeps their dtype. NaN and inf in
a gradient reach the parameters: nothing is hidden.
"""

import math

import numpy as np

from .checks import require_number


def clip_by_norm(grads, max_norm):
    """New gradients with a joint Euclidean norm of at most max_norm, and the norm before: (dict, float).

    All arrays together are one vector g; if |g| > max_norm, every g becomes g max_norm / |g|. PyTorch's
    `clip_grad_norm_` divides by |g| + 1e-6 instead, so its result is a little shorter. If the norm is NaN or inf the
    gradients come back as they are.
    Source: Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent neural networks", algorithm 1.
    """
    max_norm = require_number("clip_by_norm", "max_norm", max_norm, "> 0", lambda value: value > 0)
    norm = joint_norm(grads)
    scale = max_norm / norm if max_norm < norm < math.inf else None
    return {name: g.copy() if scale is None else g * scale for name, g in grads.items()}, norm


def joint_norm(grads):
    """The Euclidean norm of all arrays as one vector, scaled so that no square overflows."""
    largest = float(np.max([np.abs(g).max(initial=0) for g in grads.values()], initial=0))
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * math.sqrt(sum(float(np.sum((g.astype(np.float64) / largest)**2)) for g in grads.values()))


def clip_by_value(grads, limit):
    """New gradients with every finite entry moved into [-limit, limit].

    NaN and inf stay, to be seen; PyTorch's `clip_grad_value_` turns inf into the limit.
    """
    limit = require_number("clip_by_value", "limit", limit, "> 0", lambda value: value > 0)
    return {name: np.where(np.isinf(g), g, np.clip(g, -limit, limit)) for name, g in grads.items()}


# ------------------------------------------------------------------------------------------------ the base class

class Optimizer:
    """Walks over `model.params` and `model.grads`; a subclass writes `change`, what is subtracted from p.

    Raises ValueError if the model has no parameters or a setting lies outside its range.
    """

    def __init__(self, model, lr, weight_decay):
        if not model.params:
            raise ValueError(f"{self.name}: the model has no parameters, got {type(model).__name__}")
        self.model = model
        self.lr = require_number(self.name, "lr", lr, "> 0", lambda value: value > 0)
        self.weight_decay = require_number(self.name, "weight_decay", weight_decay, ">= 0", lambda value: value >= 0)
        self.steps = 0
        self.state = {}

    @property
    def name(self):
        return type(self).__name__

    def step(self):
        """Change every parameter once, in place.

        Raises RuntimeError if a gradient is missing, TypeError or ValueError if one does not fit its parameter or a
        parameter is read-only; then nothing has changed.
        """
        params, grads = dict(self.model.params.items()), dict(self.model.grads.items())
        for name, p in params.items():
            self.check(name, p, grads)
        self.steps += 1
        for name, p in params.items():
            g = grads[name] + self.weight_decay * p if self.weight_decay else grads[name]
            p -= self.change(g, self.state.setdefault(name, {}))

    def check(self, name, p, grads):
        if name not in grads:
            raise RuntimeError(f"{self.name}: no gradient for {name!r}; call backward before step")
        g = grads[name]
        if not isinstance(g, np.ndarray) or g.dtype != p.dtype:
            got = g.dtype if isinstance(g, np.ndarray) else type(g).__name__
            raise TypeError(f"{self.name}: the gradient of {name!r} must be an array of {p.dtype}, got {got}")
        if g.shape != p.shape:
            raise ValueError(f"{self.name}: the gradient of {name!r} must have shape {p.shape}, got {g.shape}")
        if not p.flags.writeable:
            raise ValueError(f"{self.name}: the parameter {name!r} must be writable, got a read-only array")

    def change(self, g, state):
        raise NotImplementedError(f"{self.name}: change(g, state) must return what is subtracted")


def decaying(owner, name, value):
    """A factor such as momentum or a beta: in [0, 1)."""
    return require_number(owner, name, value, "in [0, 1)", lambda number: 0 <= number < 1)


def positive(owner, name, value):
    return require_number(owner, name, value, "> 0", lambda number: number > 0)


# ------------------------------------------------------------------------------------------------ the rules

class SGD(Optimizer):
    """Gradient descent, with momentum if asked for.

        v = momentum v + g
        p = p - lr v                        (nesterov: p = p - lr (g + momentum v))

    Source: Polyak 1964, "Some methods of speeding up the convergence of iteration methods"; for nesterov Sutskever,
    Martens, Dahl and Hinton 2013, "On the importance of initialization and momentum in deep learning". Both put lr
    inside v; the two agree as long as lr does not change.
    """

    def __init__(self, model, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
        super().__init__(model, lr, weight_decay)
        self.momentum = decaying("SGD", "momentum", momentum)
        self.nesterov = bool(nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError("SGD: nesterov needs a momentum > 0, got 0")

    def change(self, g, state):
        if not self.momentum:
            return self.lr * g
        v = state["v"] = self.momentum * state.get("v", 0) + g
        return self.lr * (g + self.momentum * v) if self.nesterov else self.lr * v


class AdaGrad(Optimizer):
    """Each entry gets its own rate, which only falls.

        s = s + g^2
        p = p - lr g / (sqrt(s) + eps)

    Source: Duchi, Hazan and Singer 2011, "Adaptive subgradient methods for online learning and stochastic
    optimization".
    """

    def __init__(self, model, lr=0.01, eps=1e-10, weight_decay=0.0):
        super().__init__(model, lr, weight_decay)
        self.eps = positive("AdaGrad", "eps", eps)

    def change(self, g, state):
        s = state["s"] = state.get("s", 0) + g**2
        return self.lr * g / (np.sqrt(s) + self.eps)


class RMSProp(Optimizer):
    """AdaGrad that forgets: a running mean of the squares instead of their sum.

        s = alpha s + (1 - alpha) g^2
        p = p - lr g / (sqrt(s) + eps)

    Source: Hinton, Srivastava and Swersky 2012, "Neural networks for machine learning", lecture 6e.
    """

    def __init__(self, model, lr=0.01, alpha=0.99, eps=1e-8, weight_decay=0.0):
        super().__init__(model, lr, weight_decay)
        self.alpha = decaying("RMSProp", "alpha", alpha)
        self.eps = positive("RMSProp", "eps", eps)

    def change(self, g, state):
        s = state["s"] = self.alpha * state.get("s", 0) + (1 - self.alpha) * g**2
        return self.lr * g / (np.sqrt(s) + self.eps)


class Adam(Optimizer):
    """Running means of g and of g^2, each divided by what it lacks because it started at 0.

        m = beta1 m + (1 - beta1) g
        s = beta2 s + (1 - beta2) g^2
        p = p - lr (m / (1 - beta1^k)) / (sqrt(s / (1 - beta2^k)) + eps)        in step k = 1, 2, ...

    Source: Kingma and Ba 2015, "Adam: a method for stochastic optimization", algorithm 1 (which writes v for s).
    weight_decay is added to g, as in `torch.optim.Adam`; it is not AdamW.
    """

    def __init__(self, model, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(model, lr, weight_decay)
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ValueError(f"Adam: betas must be two numbers in [0, 1), got {betas!r}")
        self.betas = tuple(decaying("Adam", f"betas[{i}]", beta) for i, beta in enumerate(betas))
        self.eps = positive("Adam", "eps", eps)

    def change(self, g, state):
        beta1, beta2 = self.betas
        m = state["m"] = beta1 * state.get("m", 0) + (1 - beta1) * g
        s = state["s"] = beta2 * state.get("s", 0) + (1 - beta2) * g**2
        m_unbiased = m / (1 - beta1**self.steps)
        s_unbiased = s / (1 - beta2**self.steps)
        return self.lr * m_unbiased / (np.sqrt(s_unbiased) + self.eps)
