"""The same steps by PyTorch, JAX and HIPS autograd. Each is imported where it is used."""

import numpy as np


def pytorch(workload, data):
    """PyTorch eager, with one thread."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(1)
    x = torch.from_numpy(data.x).requires_grad_()
    params = [[torch.from_numpy(p).requires_grad_() for p in layer] for layer in data.params]
    target, flat = torch.from_numpy(data.target), [x, *(p for layer in params for p in layer)]

    def recurrent(cell, y, H, weights, states):
        h0 = y.new_zeros(1, len(y), H)
        return cell(y, (h0, h0) if states == 2 else h0, weights, True, 1, 0.0, True, False, True)[0]

    layer = {
        "linear": lambda y, p, D, H: functional.linear(y, *p),
        "conv": lambda y, p, C, F, R, m: functional.conv2d(y, *p, padding=m),
        "rnn": lambda y, p, D, H: recurrent(torch.rnn_tanh, y, H, p, 1),
        "lstm": lambda y, p, D, H: recurrent(torch.lstm, y, H, p, 2),
        "pool": lambda y, p, R: functional.max_pool2d(y, R),
        "flatten": lambda y, p: y.flatten(1), "relu": lambda y, p: y.relu(), "sigmoid": lambda y, p: y.sigmoid(),
    }

    def step():
        y = x
        for (kind, *sizes), p in zip(workload.layers, params):
            y = layer[kind](y, p, *sizes)
        if workload.classes:
            return torch.autograd.grad(functional.cross_entropy(y, target), flat)
        return torch.autograd.grad(y, flat, target)
    return step


# ------------------------------------------------------------------------------------------------ JAX, HIPS autograd

def network(np, workload, x, params, target, special):
    """The output, or the loss, in the NumPy of a framework; `special` has the layers that it writes differently."""
    layer = {
        "linear": lambda y, p, D, H: y @ p[0].T + p[1],
        "flatten": lambda y, p: y.reshape(len(y), -1),
        "relu": lambda y, p: np.where(y > 0, y, 0),
        "sigmoid": lambda y, p: 1 / (1 + np.exp(-y)),
        **special,
    }
    y = x
    for (kind, *sizes), p in zip(workload.layers, params):
        y = layer[kind](y, p, *sizes)
    if not workload.classes:
        return y
    y = y - np.max(y, axis=1, keepdims=True)
    return np.mean(np.log(np.sum(np.exp(y), axis=1)) - y[np.arange(len(target)), target])


def rnn_step(np, z, h, c):
    return np.tanh(z), c


def lstm_step(np, z, h, c):
    i, f, g, o = np.split(z, 4, axis=1)
    c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
    return np.tanh(c) / (1 + np.exp(-o)), c


def jax_jit(workload, data):
    """JAX, compiled before it is measured."""
    import jax
    from jax import lax
    from jax import numpy as jnp

    jax.config.update("jax_enable_x64", True)

    def recurrent(step):
        def run(y, p, D, H):
            W_ih, W_hh, b_ih, b_hh = p
            zs = jnp.swapaxes(y @ W_ih.T + (b_ih + b_hh), 0, 1)
            h0 = jnp.zeros((len(y), H), y.dtype)

            def body(state, z):
                h, c = step(jnp, z + state[0] @ W_hh.T, *state)
                return (h, c), h
            return jnp.swapaxes(lax.scan(body, (h0, h0), zs)[1], 0, 1)
        return run

    special = {
        "conv": lambda y, p, C, F, R, m: lax.conv_general_dilated(y, p[0], (1, 1), [(m, m)] * 2) + p[1][:, None, None],
        "pool": lambda y, p, R: lax.reduce_window(y, -jnp.inf, lax.max, (1, 1, R, R), (1, 1, R, R), "VALID"),
        "rnn": recurrent(rnn_step), "lstm": recurrent(lstm_step),
    }

    def gradients(x, params, target):
        y, back = jax.vjp(lambda x, params: network(jnp, workload, x, params, target, special), x, params)
        return back(jnp.ones_like(y) if workload.classes else target)

    args = jax.block_until_ready(jax.tree.map(jnp.asarray, (data.x, data.params, data.target)))
    compiled = jax.jit(gradients).lower(*args).compile()
    return lambda: jax.tree.leaves(jax.block_until_ready(compiled(*args)))


def hips(workload, data):
    """HIPS autograd: the tape in Python, NumPy's operations; the convolution as one product of shifted copies."""
    import autograd
    from autograd import numpy as anp

    def conv(y, p, C, F, R, m):
        y = anp.pad(y, ((0, 0), (0, 0), (m, m), (m, m)), "constant") if m else y
        P, Q = (I - R + 1 for I in y.shape[2:])
        taps = anp.stack([y[:, :, r:r + P, s:s + Q] for r, s in np.ndindex(R, R)], axis=2)
        y = anp.tensordot(taps, p[0].reshape(F, C, R*R), axes=((1, 2), (1, 2))) + p[1]
        return anp.transpose(y, (0, 3, 1, 2))

    def pool(y, p, R):
        best, *taps = [y[:, :, r::R, s::R] for r, s in np.ndindex(R, R)]
        for tap in taps:
            best = anp.where(tap > best, tap, best)
        return best

    def recurrent(step):
        def run(y, p, D, H):
            W_ih, W_hh, b_ih, b_hh = p
            zs, hs = y @ W_ih.T + (b_ih + b_hh), []
            h = c = np.zeros((len(y), H), y.dtype)
            for t in range(y.shape[1]):
                h, c = step(anp, zs[:, t] + h @ W_hh.T, h, c)
                hs.append(h)
            return anp.stack(hs, axis=1)
        return run

    special = {"conv": conv, "pool": pool, "rnn": recurrent(rnn_step), "lstm": recurrent(lstm_step)}

    def step():
        def run(arguments):
            return network(anp, workload, *arguments, data.target, special)
        back, y = autograd.make_vjp(run)([data.x, data.params])
        dx, dparams = back(np.ones_like(y) if workload.classes else data.target)
        return [dx, *(d for layer in dparams for d in layer)]
    return step
