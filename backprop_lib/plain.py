"""A multi-layer perceptron in plain Python: lists and loops, no NumPy. A judge for `mlp`, slow on purpose.

A network is a list of layers, a layer is (W, b): a list of rows, one for each unit, and a list of biases. Every layer
ends in a tanh; the loss is the mean of the squared errors over examples and outputs.
"""

import math


def forward(layers, x):
    """The activations of every layer for one example, the input x first. Raises ValueError for lists that do not fit.
    """
    activations = [x]
    for k, (W, b) in enumerate(layers):
        h = activations[-1]
        _require_length("forward", f"W of layer {k}", W, len(b))
        for row in W:
            _require_length("forward", f"each row of W of layer {k}", row, len(h))
        sums = [b[j] + sum(W[j][i] * h[i] for i in range(len(h))) for j in range(len(b))]
        activations.append([math.tanh(z) for z in sums])
    return activations


def backward(layers, activations, t, scale):
    """Gradients (dW, db) of every layer for one example, and that of x.

    scale is 1 / (examples times outputs), from the mean in the loss.
    """
    gradients, dh = [], [2 * scale * (y - target) for y, target in zip(activations[-1], t)]
    for (W, b), h, y in zip(reversed(layers), activations[-2::-1], reversed(activations)):
        dz = [dh[j] * (1 - y[j]**2) for j in range(len(b))]
        gradients.insert(0, ([[dz[j] * h[i] for i in range(len(h))] for j in range(len(b))], dz))
        dh = [sum(W[j][i] * dz[j] for j in range(len(b))) for i in range(len(h))]
    return gradients, dh


def loss_and_gradients(layers, xs, ts):
    """The loss over all examples, (dW, db) of every layer, and the gradient of every example.

    Raises ValueError for lists that do not fit each other, or no example: a mean over nothing has no value.
    """
    if not xs:
        raise ValueError("loss_and_gradients: xs must hold at least one example, got none")
    _require_length("loss_and_gradients", "ts", ts, len(xs))
    outputs = len(layers[-1][1])
    loss, total, dxs = 0.0, [([[0.0] * len(row) for row in W], [0.0] * len(b)) for W, b in layers], []
    for x, t in zip(xs, ts):
        _require_length("loss_and_gradients", "each target", t, outputs)
        activations = forward(layers, x)
        scale = 1 / (len(xs) * outputs)
        loss += scale * sum((y - target)**2 for y, target in zip(activations[-1], t))
        gradients, dx = backward(layers, activations, t, scale)
        _add(total, gradients)
        dxs.append(dx)
    return loss, total, dxs


def _add(total, gradients):
    """total += gradients, number by number."""
    for (dW, db), (more_W, more_b) in zip(total, gradients):
        for j in range(len(db)):
            db[j] += more_b[j]
            for i in range(len(dW[j])):
                dW[j][i] += more_W[j][i]


def _require_length(owner, name, numbers, length):
    if len(numbers) != length:
        raise ValueError(f"{owner}: {name} must have length {length}, got {len(numbers)}")
