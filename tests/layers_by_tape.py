"""Every layer of the library once more, from elementary operations alone: no backward function of a layer is used.

The functions in LAYERS take nodes, arrays and options in the order of the forward function of that name. `by_tape` does
the same for the objects of `nn`.
"""

import numpy as np

from backprop_lib import cnn, nn
from backprop_lib.autodiff import Node, concatenate, exp, log, maximum, sqrt, stack


# ------------------------------------------------------------------------------------------------ entry by entry


def sigmoid(z):
    return 1.0 / (1.0 + exp(-z))


def tanh(z):
    return 2.0 * sigmoid(2.0 * z) - 1.0


def linear(x, W, b):
    return x @ W.T + b


def relu(z):
    return maximum(np.zeros(z.shape, z.value.dtype), z)         # at 0 the first wins, so the derivative there is 0


def leaky_relu(z, alpha):
    return relu(z) + alpha * -maximum(-z, 0.0)                   # at 0 the second term has derivative alpha


def absolute(z):
    return relu(z) + relu(-z)                                   # derivative 0 at 0


def softplus(z):
    return log(1.0 + exp(z))


def softmax(z):
    e = exp(z - z.value.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def cross_entropy(z, t):
    return -log(softmax(z))[np.arange(len(t)), t].mean()


def sequence_cross_entropy(z, targets, mask):
    n, t = np.nonzero(mask)
    return -log(softmax(z))[n, t, targets[n, t]].mean()


def mse(y, t):
    return ((y - t)**2).mean()


def sigmoid_bce(z, t):
    return (t * softplus(-z) + (1 - t) * softplus(z)).mean()


# ------------------------------------------------------------------------------------------------ normalisation

def normalised(x, axis, eps):
    a = x - x.mean(axis, keepdims=True)
    return a / sqrt((a * a).mean(axis, keepdims=True) + eps)


def batch_norm_eval(x, gamma, beta, mean, var, eps):
    return gamma * ((x - mean) / np.sqrt(var + eps)) + beta


# ------------------------------------------------------------------------------------------------ images

def correlate1d(x, w):
    Q = x.shape[0] - w.shape[0] + 1
    return x[np.arange(Q)[:, None] + np.arange(w.shape[0])] @ w


def padded(x, m0, m1, fill=0.0):
    N, C, I, J = x.shape
    rows, columns = np.full((N, C, m0, J), fill), np.full((N, C, I + 2*m0, m1), fill)
    return concatenate([columns, concatenate([rows, x, rows], 2), columns], 3)


def windows_of(x, kernel, stride, padding, dilation, fill=0.0):
    at = cnn.unfold_forward(x.value, kernel, stride, padding, dilation)[1].at
    return padded(x, *at.padding, fill)[:, :, at.rows[:, None, :, None], at.columns[:, None, :]]


def conv2d(x, W, b, stride=1, padding=0, dilation=1, groups=1):
    windows = windows_of(x, W.shape[2:], stride, padding, dilation)
    N, C, P, Q, R, S = windows.shape
    F, D = W.shape[0], C // groups
    parts = []
    for g in range(groups):
        taps = windows[:, g*D:(g + 1)*D].transpose(0, 2, 3, 1, 4, 5).reshape(N*P*Q, D*R*S)
        kernel = W[g*F//groups:(g + 1)*F//groups].reshape(F//groups, D*R*S)
        parts.append((taps @ kernel.T).reshape(N, P, Q, F//groups))
    return (concatenate(parts, 3) + b).transpose(0, 3, 1, 2)


def conv_transpose2d(x, W, b, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Taps of each input pixel, then a matrix of zeros and ones that says where each tap is added."""
    options = stride, padding, output_padding, groups, dilation
    y, cache = cnn.conv_transpose2d_forward(x.value, W.value, b.value, *options)
    N, F, P, Q = x.shape
    (_, D, R, S), (I, J), G = W.shape, y.shape[2:], groups
    one = np.zeros((P*Q*R*S, 1, P, Q, R, S))
    one.reshape(P*Q*R*S, -1)[np.diag_indices(P*Q*R*S)] = 1
    places = cnn.scatter(one, cache.at._replace(shape=(len(one), 1, I, J))).reshape(P*Q*R*S, I*J)
    parts = []
    for g in range(G):
        pixels = x[:, g*F//G:(g + 1)*F//G].transpose(0, 2, 3, 1).reshape(N*P*Q, F//G)
        taps = (pixels @ W[g*F//G:(g + 1)*F//G].reshape(F//G, D*R*S)).reshape(N, P, Q, D, R, S)
        parts.append((taps.transpose(0, 3, 1, 2, 4, 5).reshape(N*D, P*Q*R*S) @ places).reshape(N, D, I, J))
    return concatenate(parts, 1) + b.reshape(-1, 1, 1)


def max_pool2d(x, kernel, stride=None, padding=0, dilation=1):
    windows = windows_of(x, kernel, stride or kernel, padding, dilation, -np.inf)
    y = windows[..., 0, 0]
    for r, s in list(np.ndindex(windows.shape[4:]))[1:]:
        y = maximum(y, windows[..., r, s])
    return y


def avg_pool2d(x, kernel, stride=None, padding=0, count_include_pad=True):
    total = windows_of(x, kernel, stride or kernel, padding, 1).sum(axis=(4, 5))
    ones = windows_of(Node(np.ones(x.shape)), kernel, stride or kernel, padding, 1).value
    return total / (np.ones_like(ones) if count_include_pad else ones).sum(axis=(4, 5))


# ------------------------------------------------------------------------------------------------ sequences

def rnn_step(x, h, W_ih, W_hh, b, nonlinearity="tanh"):
    return {"tanh": tanh, "relu": relu}[nonlinearity](x @ W_ih.T + h @ W_hh.T + b)


def lstm_step(x, h, c, W_ih, W_hh, b, p=None):              # p: peepholes
    H = h.shape[1]
    z = x @ W_ih.T + h @ W_hh.T + b
    z_i, z_f, z_g, z_o = (z[:, k*H:(k + 1)*H] for k in range(4))
    if p is not None:
        z_i, z_f = z_i + p[0] * c, z_f + p[1] * c
    c = sigmoid(z_f) * c + sigmoid(z_i) * tanh(z_g)
    z_o = z_o if p is None else z_o + p[2] * c
    return sigmoid(z_o) * tanh(c), c


def gru_step(x, h, W_ih, W_hh, b_ih, b_hh, after=True):
    H = h.shape[1]
    a = x @ W_ih.T + b_ih
    u = h @ W_hh.T + b_hh
    r, z = sigmoid((a + u)[:, :H]), sigmoid((a + u)[:, H:2*H])
    u_n = r * u[:, 2*H:] if after else (r * h) @ W_hh[2*H:].T + b_hh[2*H:]
    return (1.0 - z) * tanh(a[:, 2*H:] + u_n) + z * h


def through_time(step, x, states, *weights):
    """The states after each step, each stacked along axis 1."""
    history = []
    for t in range(x.shape[1]):
        states = tuple_of(step(x[:, t], *states, *weights))
        history.append(states)
    histories = tuple(stack(hs, 1) for hs in zip(*history))
    return histories if len(histories) > 1 else histories[0]


def tuple_of(value):
    return value if isinstance(value, tuple) else (value,)


def cbow(context, centre, W_in, W_out):
    return cross_entropy(W_in[context].mean(axis=1) @ W_out.T, centre)


def skipgram(context, centre, W_in, W_out):
    """One prediction for each word of the context, their losses added up."""
    T = context.shape[1]
    return T * cross_entropy(W_in[np.repeat(centre, T)] @ W_out.T, context.ravel())


def negative_sampling(candidates, centre, W_in, W_out):
    N, K = candidates.shape
    z = (W_out[candidates] * W_in[centre].reshape(N, 1, W_in.shape[1])).sum(axis=2)
    return K * sigmoid_bce(z, np.eye(1, K).repeat(N, 0))


LAYERS = {
    "embedding": lambda words, W: W[words], "cbow": cbow, "skipgram": skipgram, "negative_sampling": negative_sampling,
    "linear": linear, "mse": mse, "sigmoid": sigmoid, "tanh": tanh, "relu": relu, "softmax": softmax,
    "softmax_cross_entropy": cross_entropy, "leaky_relu": leaky_relu, "softplus": softplus,
    "identity": lambda z: z + 0.0, "sigmoid_bce": sigmoid_bce,
    "l2_penalty": lambda W, lam: lam / 2 * (W * W).sum(), "l1_penalty": lambda W, lam: lam * absolute(W).sum(),
    "dropout": lambda h, mask, p: h * mask.astype(float) / (1 - p),
    "correlate1d": correlate1d, "correlate2d": conv2d, "unfold": windows_of, "conv2d": conv2d,
    "conv_transpose2d": conv_transpose2d, "max_pool2d": max_pool2d, "avg_pool2d": avg_pool2d,
    "global_avg_pool2d": lambda x: x.mean(axis=(2, 3)), "flatten": lambda x: x.reshape(x.shape[0], -1),
    "rnn_step": rnn_step, "rnn": lambda x, h0, *weights: through_time(rnn_step, x, (h0,), *weights),
    "last_step": lambda hs, lengths: hs[np.arange(len(lengths)), lengths - 1],
    "sequence_cross_entropy": sequence_cross_entropy,
    "lstm_step": lstm_step, "lstm": lambda x, h0, c0, *weights: through_time(lstm_step, x, (h0, c0), *weights),
    "peephole_lstm_step": lstm_step, "gru_step": gru_step,
    "gru_before_step": lambda *args: gru_step(*args, after=False),
    "gru": lambda x, h0, *weights: through_time(gru_step, x, (h0,), *weights),
    "batch_norm": lambda x, gamma, beta, eps: gamma * normalised(x, 0, eps) + beta, "batch_norm_eval": batch_norm_eval,
    "layer_norm": lambda x, gamma, beta, eps: gamma * normalised(x, 1, eps) + beta,
}


# ------------------------------------------------------------------------------------------------ objects of nn

def by_tape(layer, x, params):
    """What the layer's forward makes of the node x, with the nodes `params` by name."""
    return next(OBJECTS[kind] for kind in type(layer).__mro__ if kind in OBJECTS)(layer, x, params)


def in_order(layer, x, params):
    for i, inner in enumerate(layer):
        x = by_tape(inner, x, {name.partition(".")[2]: p for name, p in params.items() if name.startswith(f"{i}.")})
    return x


def affine_norm(layer, y, params, shape):
    """Weight and bias of a normalisation, where there are any."""
    y = y * params["weight"].reshape(shape) if "weight" in params else y
    return y + params["bias"].reshape(shape) if "bias" in params else y


def batch_norm_object(layer, x, params):
    column = (-1,) + (1,) * (len(x.shape) - 2)                  # C in front of the pixels
    if layer.training:
        y = normalised(x, (0, *range(2, len(x.shape))), layer.eps)
    else:
        mean, var = (layer.buffers[name].reshape(column) for name in ("running_mean", "running_var"))
        y = (x - mean) / np.sqrt(var + layer.eps)
    return affine_norm(layer, y, params, column)


def layer_norm_object(layer, x, params):
    shape = layer.normalized_shape
    return affine_norm(layer, normalised(x, tuple(range(-len(shape), 0)), layer.eps), params, shape)


def recurrent(layer, x, params, states=None, lengths=None):
    """(y, final states): a step that lies behind the end of a sequence leaves its states as they are."""
    step, kinds = {nn.RNN: (rnn_step, 1), nn.LSTM: (lstm_step, 2), nn.GRU: (gru_step, 1)}[type(layer)]
    x = x if layer.batch_first else x.transpose(1, 0, 2)
    N, T, _ = x.shape
    zeros = Node(np.zeros((layer.num_layers * layer.directions, N, layer.hidden_size)))
    states = (zeros,) * kinds if states is None else states
    finals = []
    for _ in range(layer.num_layers):
        outputs = []
        for direction in range(layer.directions):
            k, hs = len(finals), [None] * T
            state, weights = tuple(s[k] for s in states), cell_weights(layer, params, k)
            for t in range(T)[::-1 if direction else 1]:
                kept = np.ones((N, 1)) if lengths is None else (t < lengths)[:, None].astype(float)
                new = tuple_of(step(x[:, t], *state, *weights, *layer.options.values()))
                state = tuple(kept * after + (1 - kept) * before for after, before in zip(new, state))
                hs[t] = kept * new[0]
            outputs.append(stack(hs, 1))
            finals.append(state)
        x = concatenate(outputs, 2)
    return x if layer.batch_first else x.transpose(1, 0, 2), tuple(map(stack, zip(*finals)))


def cell_weights(layer, params, k):
    W_ih, W_hh, *biases = [params[name] for name in layer.names(k)]
    biases = biases or [np.zeros(W_ih.shape[0])] * 2
    return W_ih, W_hh, *(biases if isinstance(layer, nn.GRU) else [biases[0] + biases[1]])


def convolution(layer, x, params):
    bias = params["bias"] if "bias" in params else Node(np.zeros(layer.out_channels))
    return LAYERS["conv2d" if isinstance(layer, nn.Conv2d) else "conv_transpose2d"](
        x, params["weight"], bias, *layer.options.values())


def dropout(layer, x, params):
    return x * layer.memory.cache.mask / (1 - layer.p) if layer.training else x


OBJECTS = {
    nn.Embedding: lambda layer, x, params: params["weight"][x],
    nn.Linear: lambda layer, x, params: x @ params["weight"].T + params.get("bias", 0.0),
    nn.Conv2d: convolution, nn.ConvTranspose2d: convolution,
    nn.MaxPool2d: lambda layer, x, params: max_pool2d(x, *layer.options),
    nn.AvgPool2d: lambda layer, x, params: avg_pool2d(x, *layer.options, layer.count_include_pad),
    nn.Recurrent: lambda *args: recurrent(*args)[0], nn.LastStep: lambda layer, x, params: x[:, -1],
    nn.Sigmoid: lambda layer, x, params: sigmoid(x), nn.Tanh: lambda layer, x, params: tanh(x),
    nn.ReLU: lambda layer, x, params: relu(x), nn.Softplus: lambda layer, x, params: softplus(x),
    nn.LeakyReLU: lambda layer, x, params: leaky_relu(x, *layer.arguments),
    nn.Identity: lambda layer, x, params: x, nn.Softmax: lambda layer, x, params: softmax(x),
    nn.GlobalAvgPool2d: lambda layer, x, params: x.mean(axis=(2, 3)),
    nn.Flatten: lambda layer, x, params: x.reshape(x.shape[0], -1), nn.Dropout: dropout,
    nn.BatchNorm: batch_norm_object, nn.LayerNorm: layer_norm_object,
    nn.DataParallel: lambda layer, x, params: by_tape(layer.layers[0], x, params),
    nn.Sequential: in_order, nn.Residual: lambda layer, x, params: x + in_order(layer, x, params),
}
LOSSES = {
    nn.CrossEntropyLoss: cross_entropy, nn.BCEWithLogitsLoss: sigmoid_bce, nn.MSELoss: mse,
    nn.SequenceCrossEntropyLoss: lambda z, t: sequence_cross_entropy(z, t, t != -1),
}
