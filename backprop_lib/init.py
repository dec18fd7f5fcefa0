"""Starting values for weights, drawn from a `numpy.random.Generator` that the caller passes.

Numbers are drawn in float64 and then rounded to `dtype`, so one seed gives the same start in both widths. Shapes are
PyTorch's: (out, in) for a linear layer, (F, C, R, S) for a convolution (with groups, C counts the channels that one
filter sees).
"""

import math

import numpy as np

from .checks import require_dtype, require_float, require_generator, require_number, require_shape, require_size


def fans(shape):
    """How many inputs one output reads, and how many outputs one input feeds: (fan_in, fan_out).

    (out, in) gives (in, out); (F, C, R, S) gives (C R S, F R S).
    Raises ValueError if the shape has fewer than two axes or an empty one.
    """
    shape = require_shape("fans", shape)
    if len(shape) < 2 or 0 in shape:
        raise ValueError(f"fans: shape must be (out, in) or (F, C, R, S) with every size at least 1, got {shape}")
    receptive = math.prod(shape[2:])
    return shape[1] * receptive, shape[0] * receptive


def uniform(rng, shape, bound, dtype=np.float64):
    """Uniform on [-bound, bound]: variance bound**2 / 3."""
    require_generator("uniform", rng)
    bound = require_number("uniform", "bound", bound, ">= 0", lambda value: value >= 0)
    return rng.uniform(-bound, bound, require_shape("uniform", shape)).astype(require_dtype("uniform", dtype))


def normal(rng, shape, std, dtype=np.float64):
    """Normal with mean 0: variance std**2."""
    require_generator("normal", rng)
    std = require_number("normal", "std", std, ">= 0", lambda value: value >= 0)
    return (std * rng.standard_normal(require_shape("normal", shape))).astype(require_dtype("normal", dtype))


def fan_in_uniform(rng, shape, fan_in=None, dtype=np.float64):
    """Uniform on +-1/sqrt(fan_in), the default of PyTorch's Linear: variance 1 / (3 fan_in).

    fan_in is read off the shape of a weight; a bias has none of its own, so pass the one of its weight.
    Source: LeCun, Bottou, Orr and Mueller 1998, "Efficient BackProp", section 4.6 (which asks for variance 1/fan_in).
    """
    fan_in = fans(shape)[0] if fan_in is None else require_size("fan_in_uniform", "fan_in", fan_in)
    return uniform(rng, shape, 1 / math.sqrt(fan_in), dtype)


def xavier_uniform(rng, shape, gain=1.0, dtype=np.float64):
    """Uniform on +-gain sqrt(6 / (fan_in + fan_out)): variance 2 gain**2 / (fan_in + fan_out).

    Source: Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks",
    equation 16.
    """
    return uniform(rng, shape, require_gain("xavier_uniform", gain) * math.sqrt(6 / sum(fans(shape))), dtype)


def xavier_normal(rng, shape, gain=1.0, dtype=np.float64):
    """Normal with variance 2 gain**2 / (fan_in + fan_out).

    Source: Glorot and Bengio 2010, equation 12.
    """
    return normal(rng, shape, require_gain("xavier_normal", gain) * math.sqrt(2 / sum(fans(shape))), dtype)


def he_uniform(rng, shape, dtype=np.float64):
    """Uniform on +-sqrt(6 / fan_in): variance 2 / fan_in, which keeps the mean square through ReLU layers.

    Source: He, Zhang, Ren and Sun 2015, "Delving deep into rectifiers", section 2.2 (the variance).
    """
    return uniform(rng, shape, math.sqrt(6 / fans(shape)[0]), dtype)


def he_normal(rng, shape, dtype=np.float64):
    """Normal with variance 2 / fan_in.

    Source: He, Zhang, Ren and Sun 2015, equation 10.
    """
    return normal(rng, shape, math.sqrt(2 / fans(shape)[0]), dtype)


def orthogonal(rng, shape, gain=1.0, dtype=np.float64):
    """gain times a random matrix with orthonormal rows or columns, whichever are fewer: variance gain**2 / max(sizes).

    More than two axes are read as a matrix (out, all the others), as in PyTorch. Every such matrix is equally likely:
    the signs of R make the QR factorisation unique (Mezzadri 2007, "How to generate random matrices from the
    classical compact groups").
    Source: Saxe, McClelland and Ganguli 2014, "Exact solutions to the nonlinear dynamics of learning".
    """
    require_generator("orthogonal", rng)
    fans(shape)                                 # refuses a shape that is no weight
    rows, columns = shape[0], math.prod(shape[1:])
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))
    matrix = q if rows >= columns else q.T
    gained = require_gain("orthogonal", gain) * matrix
    return gained.reshape(shape).astype(require_dtype("orthogonal", dtype), order="C")


def identity(shape, gain=1.0, dtype=np.float64):
    """gain on the diagonal of a matrix (out, in), 0 elsewhere: nothing is drawn.

    Source: Le, Jaitly and Hinton 2015, "A simple way to initialize recurrent networks of rectified linear units".
    """
    shape = require_shape("identity", shape)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"identity: shape must be (out, in) with both sizes at least 1, got {shape}")
    return require_gain("identity", gain) * np.eye(*shape, dtype=require_dtype("identity", dtype))


# ------------------------------------------------------------------------------------------------ a whole model

def restart(model, draw, rng):
    """Draw every weight of a model anew with draw(rng, shape, dtype=dtype), such as `he_normal`; returns the model.

    Weights are the parameters with two or more axes; those of a recurrent layer are drawn gate by gate, (4H, H) as
    four (H, H). Biases become 0, an LSTM's forget_bias among them. The weights of normalisation layers, which scale,
    stay as they are.
    Raises TypeError or ValueError, with nothing changed, if draw gives an array of another dtype or shape.
    """
    require_generator("restart", rng)
    if not hasattr(model, "modules"):
        raise TypeError(f"restart: model must be a Layer, got {type(model).__name__}")
    leaves = [module for module in model.modules() if not module.layers]
    starts = [{name: start(module, name, draw, rng) for name in module.params} for module in leaves]
    for module, params in zip(leaves, starts):
        module.params.update(params)
    return model


def start(module, name, draw, rng):
    """What `restart` makes of one parameter."""
    p = module.params[name]
    if name.startswith("bias"):
        return np.zeros_like(p)
    if p.ndim < 2 or module.gates == 0:
        return p
    shape = len(p) // module.gates, *p.shape[1:]
    return np.concatenate([drawn(draw, rng, shape, p.dtype) for _ in range(module.gates)])


def drawn(draw, rng, shape, dtype):
    weight = draw(rng, shape, dtype=dtype)
    require_float("restart", "the result of draw", weight, dtype)
    if weight.shape != shape:
        raise ValueError(f"restart: the result of draw must have shape {shape}, got {weight.shape}")
    return weight


def require_gain(owner, gain):
    return require_number(owner, "gain", gain, "> 0", lambda value: value > 0)
