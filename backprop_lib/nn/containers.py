"""Several layers as one: Sequential, Residual, and the ready models MLP and LeNet."""

from collections.abc import MutableMapping

import numpy as np

from ..checks import require_pair, require_shape, require_size
from .convolution import Conv2d, MaxPool2d
from .layer import Layer
from .linear import Dropout, Flatten, Identity, LeakyReLU, Linear, ReLU, Sigmoid, Softplus, Tanh


class FlatView(MutableMapping):
    """The dicts of several layers as one: "0.weight" is "weight" of layer 0. What is assigned here arrives there."""

    def __init__(self, layers, which):
        self.dicts = {str(i): getattr(layer, which) for i, layer in enumerate(layers)}

    def find(self, name):
        index, _, key = str(name).partition(".")
        if index not in self.dicts:
            raise KeyError(name)
        return self.dicts[index], key

    def __getitem__(self, name):
        values, key = self.find(name)
        return values[key]

    def __setitem__(self, name, value):
        values, key = self.find(name)
        values[key] = value

    def __delitem__(self, name):
        values, key = self.find(name)
        del values[key]

    def __iter__(self):
        return (f"{index}.{key}" for index, values in self.dicts.items() for key in values)

    def __len__(self):
        return sum(map(len, self.dicts.values()))

    def items(self):
        return {f"{index}.{key}": value
                for index, values in self.dicts.items() for key, value in values.items()}.items()

    def __repr__(self):
        return repr(dict(self))


class Sequential(Layer):
    """Layers one after the other; `params`, `grads` and `buffers` are views of theirs, named "0.weight", "0.bias", ...

    `model[i]`, `len(model)` and `for layer in model` reach the layers.
    Raises TypeError for what is not a Layer, ValueError for no layer, or one that appears twice (its gradients would
    have to be added).
    """

    params = property(lambda self: FlatView(self.layers, "params"))
    buffers = property(lambda self: FlatView(self.layers, "buffers"))
    grads = property(lambda self: FlatView(self.layers, "grads"))

    def __init__(self, *layers):
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"{self.name}: layer {i} must be a Layer, got {type(layer).__name__}")
        inside = [id(module) for layer in layers for module in layer.modules()]
        if not layers or len(set(inside)) < len(inside):
            raise ValueError(f"{self.name}: expected one or more different layers, got "
                             f"{[layer.name for layer in layers]}{' with one of them twice' if layers else ''}")
        self.layers = layers
        self.dtype = None
        self.training = True
        self.memory = None

    def __len__(self):
        return len(self.layers)

    def __getitem__(self, index):
        return self.layers[index]

    def __iter__(self):
        return iter(self.layers)

    def check(self, x):
        """Each layer checks its own input."""

    def compute(self, x):
        memories = []
        for layer in self.layers:
            x, memory = layer.run(x)
            memories.append(memory)
        return x, tuple(memories)

    def compute_gradients(self, dy, cache):
        grads = []
        for layer, memory in zip(reversed(self.layers), reversed(cache)):
            dy, of_layer = layer.run_back(dy, memory)
            grads.append(of_layer)
        return dy, tuple(reversed(grads))

    def remember(self, memory):
        super().remember(memory)
        for layer, of_layer in zip(self.layers, memory.cache):
            layer.remember(of_layer)

    def keep(self, grads):
        for layer, of_layer in zip(self.layers, grads):
            layer.keep(of_layer)

    def expected(self, kind=None):
        return {f"{i}.{name}": entry for i, layer in enumerate(self.layers)
                for name, entry in layer.expected(kind).items()}


class Residual(Sequential):
    """y = x + layers(x), the layers one after the other; y must be like x.

    What arrives goes back by both ways: dx is dy plus what comes back through the layers.
    Raises ValueError or TypeError if the layers change shape or dtype, else as Sequential.
    Source: He, Zhang, Ren and Sun 2016, "Deep residual learning for image recognition", equation 1.
    """

    def compute(self, x):
        y, memories = super().compute(x)
        if y.shape != x.shape:
            raise ValueError(f"{self.name}: the layers must keep the shape {x.shape} of x, got {y.shape}")
        if y.dtype != x.dtype:
            raise TypeError(f"{self.name}: the layers must keep the dtype {x.dtype} of x, got {y.dtype}")
        return x + y, memories

    def compute_gradients(self, dy, cache):
        dx, grads = super().compute_gradients(dy, cache)
        return dy + dx, grads


ACTIVATIONS = {"identity": Identity, "leaky_relu": LeakyReLU, "relu": ReLU, "sigmoid": Sigmoid,
               "softplus": Softplus, "tanh": Tanh}


class MLP(Sequential):
    """Linear layers of the given sizes with an activation between each two; the last Linear stands bare.

    Shapes: x (N, D) -> z (N, K)

    sizes       [D, H, ..., K], at least two; MLP([2, 3, 1], "tanh", rng=rng) is Linear, Tanh, Linear.
    activation  a name in ACTIVATIONS.
    """

    def __init__(self, sizes, activation="relu", *, rng, dtype=np.float64):
        if not isinstance(sizes, (list, tuple)) or len(sizes) < 2:
            raise ValueError(f"MLP: sizes must be a list of at least two whole numbers, got {sizes!r}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"MLP: activation must be one of {sorted(ACTIVATIONS)}, got {activation!r}")
        sizes = [require_size("MLP", f"sizes[{i}]", size) for i, size in enumerate(sizes)]
        layers = []
        for D, H in zip(sizes, sizes[1:]):
            layers += [Linear(D, H, rng=rng, dtype=dtype), ACTIVATIONS[activation]()]
        super().__init__(*layers[:-1])


class LeNet(Sequential):
    """Two times convolution 3 x 3, ReLU and max-pooling 2 x 2, then two linear layers: small images to class scores.

    Shapes: x (N, C, I, J) -> z (N, K)

    image     (C, I, J) of one example
    channels  the two numbers of filters
    hidden    width of the linear layer between, behind which dropout acts
    pools     windows of the two poolings; 1 leaves one out
    After LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition", whose
    LeNet-5 has trainable average pooling, tanh and 5 x 5 kernels.
    """

    def __init__(self, image, classes, channels=(16, 32), hidden=64, dropout=0.5, pools=(2, 2), *, rng,
                 dtype=np.float64):
        shape = require_shape("LeNet", image, "image")
        classes, hidden = require_size("LeNet", "classes", classes), require_size("LeNet", "hidden", hidden)
        first, second = require_pair("LeNet", "channels", channels, 1)
        pools = require_pair("LeNet", "pools", pools, 1)
        if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < pools[0]*pools[1]:
            raise ValueError(f"LeNet: image must be (C, I, J) with room for poolings {pools}, got {shape}")
        C, I, J = shape
        features = second * (I//pools[0]//pools[1]) * (J//pools[0]//pools[1])
        super().__init__(
            Conv2d(C, first, 3, padding=1, rng=rng, dtype=dtype), ReLU(), MaxPool2d(pools[0]),
            Conv2d(first, second, 3, padding=1, rng=rng, dtype=dtype), ReLU(), MaxPool2d(pools[1]),
            Flatten(), Linear(features, hidden, rng=rng, dtype=dtype), ReLU(),
            Dropout(dropout, rng=rng), Linear(hidden, classes, rng=rng, dtype=dtype))
