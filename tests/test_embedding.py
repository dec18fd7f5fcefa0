"""backprop_lib.embedding and nn.Embedding: rows of a table, and word2vec's three losses."""

import math

import numpy as np
import pytest
from arrays import frozen, normal, refuses, same_bits, spread

from backprop_lib import embedding, mlp, nn, optim
from backprop_lib.data import one_hot
from backprop_lib.gradcheck import check_adjoint, check_gradients, on_grid, relative_error
from backprop_lib.shapes import build_inputs


PAIRS = {name.removesuffix("_forward"): (f, getattr(embedding, name.replace("_forward", "_backward")))
         for name, f in vars(embedding).items() if name.endswith("_forward")}
LOSSES = ["cbow", "skipgram", "negative_sampling"]
LIMIT = 1e-12
every_pair = pytest.mark.parametrize("pair", PAIRS)
every_loss = pytest.mark.parametrize("pair", LOSSES)


def inputs(pair, seed=0, **sizes):
    sizes = {"N": 5, "T": 7, "K": 3, "V": 11, "D": 2} | sizes
    return build_inputs(PAIRS[pair][0], np.random.default_rng(seed), sizes)


def gradients(pair, args, cotangent=None):
    forward, backward = PAIRS[pair]
    y, cache = forward(*args)
    back = backward(normal(*np.shape(y), seed=9) if cotangent is None else cotangent, cache)
    return back if isinstance(back, tuple) else (back,)


# ------------------------------------------------------------------------------------------------ gradients

def test_the_module_has_these_pairs():
    assert sorted(PAIRS) == ["cbow", "embedding", "negative_sampling", "skipgram"]


@every_pair
@pytest.mark.parametrize("sizes", [{}, {"N": 1}, {"T": 1, "K": 1}, {"D": 1}, {"V": 3, "N": 13}, {"V": 1}])
def test_gradients_agree_with_the_complex_step(pair, sizes):
    check_gradients(*PAIRS[pair], *inputs(pair, **sizes))


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), (0, 3), (3, 0)])
def test_embedding_is_the_exact_adjoint(shape):
    rng = np.random.default_rng(1)
    words = rng.integers(0, 4, shape)
    check_adjoint(embedding.embedding_forward, embedding.embedding_backward, words, on_grid(rng, (4, 3)), wrt="W")


@pytest.mark.parametrize("shape", [(7,), (2, 5), (2, 3, 4)])
def test_embedding_is_one_hot_times_the_table(shape):
    rng = np.random.default_rng(2)
    words, W = rng.integers(0, 6, shape), on_grid(rng, (6, 3))
    x, cache = embedding.embedding_forward(words, W)
    dx = on_grid(rng, x.shape)
    rows = one_hot(words, 6).reshape(-1, 6)
    z, linear = mlp.linear_forward(rows, W.T.copy(), np.zeros(3))
    assert np.array_equal(x, z.reshape(x.shape))
    _, dW, _ = mlp.linear_backward(dx.reshape(-1, 3), linear)
    assert np.array_equal(embedding.embedding_backward(dx, cache), dW.T)        # on the grid every sum is exact


def test_a_word_that_stands_twice_gets_both_gradients_and_one_that_stands_nowhere_none():
    words, dx = np.array([[2, 0, 2], [2, 3, 0]]), np.array([[[1.0], [10], [100]], [[1000], [10000], [100000]]])
    _, cache = embedding.embedding_forward(words, np.zeros((5, 1)))
    assert embedding.embedding_backward(dx, cache).ravel().tolist() == [100010, 0, 1101, 10000, 0]


def composed(pair, around, centre, W_in, W_out):
    """(loss, dW_in, dW_out) from the linear layer, the softmax and its cross-entropy of mlp, with one-hot words."""
    V, (N, T), none = len(W_in), around.shape, np.zeros(len(W_in))
    read, t, times = one_hot(around, V).mean(axis=1), centre, 1
    if pair == "skipgram":
        read, t, times = one_hot(np.repeat(centre, T), V), around.ravel(), T
    h, first = mlp.linear_forward(read, W_in.T.copy(), np.zeros(W_in.shape[1]))
    z, second = mlp.linear_forward(h, W_out, none)
    if pair == "negative_sampling":
        read, times = one_hot(centre, V), T
        h, first = mlp.linear_forward(read, W_in.T.copy(), np.zeros(W_in.shape[1]))
        z, second = mlp.linear_forward(h, W_out, none)
        chosen = np.arange(N)[:, None], around
        loss, last = mlp.sigmoid_bce_forward(z[chosen], np.eye(1, T).repeat(N, axis=0))
        dz = np.zeros_like(z)
        np.add.at(dz, chosen, mlp.sigmoid_bce_backward(times, last))
    else:
        loss, last = mlp.softmax_cross_entropy_forward(z, t)
        dz = mlp.softmax_cross_entropy_backward(times, last)
    dh, dW_out, _ = mlp.linear_backward(dz, second)
    return times * loss, mlp.linear_backward(dh, first)[1].T, dW_out


@every_loss
@pytest.mark.parametrize("N, T", [(1, 1), (1, 4), (6, 1), (6, 4)])
def test_word2vec_is_made_of_linear_layers_and_cross_entropies(pair, N, T):
    args = inputs(pair, N=N, T=T, K=T, V=7, D=3)
    ours = PAIRS[pair][0](*args)[0], *gradients(pair, args, 1.0)
    assert max(map(relative_error, ours, composed(pair, *args))) <= LIMIT


@every_loss
def test_a_word_may_stand_more_often_than_a_byte_counts(pair):
    around, centre, W_in, W_out = inputs(pair, N=2, V=3)
    check_gradients(*PAIRS[pair], np.zeros((2, 300), np.uint8), centre, W_in, W_out)


@every_pair
def test_what_the_functions_promise(pair):
    """Nothing passed in changes, read-only and strided arrays give the same bits, and gradients are linear."""
    args = inputs(pair)
    forward, backward = PAIRS[pair]
    before = [a.tobytes() for a in args]
    y, cache = forward(*args)
    dy = normal(*np.shape(y), seed=9)
    once = gradients(pair, args)
    assert same_bits(once, gradients(pair, args)) and before == [a.tobytes() for a in args]
    twice = [backward(dy, cache) for _ in range(2)]
    assert same_bits(np.atleast_1d(twice[0]), np.atleast_1d(twice[1]))
    assert same_bits(once, gradients(pair, list(map(frozen, args))))
    assert max(map(relative_error, once, gradients(pair, list(map(spread, args))))) <= 1e-14
    assert same_bits([2 * d for d in once], gradients(pair, args, 2 * dy))
    assert not any(d.any() for d in gradients(pair, args, 0 * dy))


@every_pair
def test_widths(pair):
    args = [a.astype(np.float32) if a.dtype.kind == "f" else a for a in inputs(pair)]
    y, cache = PAIRS[pair][0](*args)
    assert y.dtype == np.float32
    assert {d.dtype for d in gradients(pair, args, np.ones(np.shape(y), np.float32))} == {np.dtype(np.float32)}
    if pair in LOSSES:
        assert {d.dtype for d in gradients(pair, args, 1.0)} == {np.dtype(np.float32)}
    for kind in (np.uint8, np.int32):
        narrow = [a.astype(kind) if a.dtype.kind == "i" else a for a in args]
        assert same_bits(gradients(pair, narrow), gradients(pair, args))


@every_loss
def test_huge_scores_do_not_overflow_and_nan_is_not_hidden(pair):
    args = inputs(pair)
    big = [1e4 * a if a.dtype.kind == "f" else a for a in args]
    assert np.isfinite(PAIRS[pair][0](*big)[0]) and all(np.isfinite(d).all() for d in gradients(pair, big))
    args[2][args[1][0]] = args[2][args[0][0, 0]] = np.nan       # the row of a word that is read
    assert np.isnan(PAIRS[pair][0](*args)[0])


# ------------------------------------------------------------------------------------------------ a published case

CONTEXT, CENTRE, ONES = np.array([[0, 1, 3, 4]]), np.array([2]), np.ones((7, 2))
W2 = np.array([[0.2, 0.2, 0.3, 0.4, 0.5, 0.3, 0.2], [0.3, 0, 0.1, 0, 1, 0.1, 0.5]])


def test_the_worked_example_by_plain_python():
    """Vocabulary 7, two units, words 0, 1, 3, 4 around word 2, step 0.1: while W_in is 1, z is a column sum of W2."""
    e = [math.exp(a + b) for a, b in zip(*W2.tolist())]
    p = [value / sum(e) for value in e]
    around = [0, 1, 3, 4]
    for pair, loss, dz, rows in (
            ("cbow", -math.log(p[2]), [p[v] - (v == 2) for v in range(7)], dict.fromkeys(around, 1 / 4)),
            ("skipgram", -sum(math.log(p[v]) for v in around), [4 * p[v] - (v in around) for v in range(7)], {2: 1})):
        dh = [sum(dz[v] * W2[d, v] for v in range(7)) for d in range(2)]
        found, cache = PAIRS[pair][0](CONTEXT, CENTRE, ONES, W2.T)
        dW_in, dW_out = PAIRS[pair][1](1.0, cache)
        assert abs(found - loss) < 1e-14
        assert np.allclose(dW_in, [[rows.get(v, 0) * dh[d] for d in range(2)] for v in range(7)], rtol=0, atol=1e-15)
        assert np.allclose(dW_out, [[dz[v]] * 2 for v in range(7)], rtol=0, atol=1e-15)


def test_with_a_context_of_one_word_both_models_are_one_with_the_words_exchanged():
    around, centre, W_in, W_out = inputs("cbow", T=1)
    swapped = centre[:, None], around[:, 0], W_in, W_out
    assert abs(embedding.cbow_forward(around, centre, W_in, W_out)[0] - embedding.skipgram_forward(*swapped)[0]) < 1e-14
    left, right = gradients("cbow", (around, centre, W_in, W_out), 1.0), gradients("skipgram", swapped, 1.0)
    assert max(map(relative_error, left, right)) <= LIMIT


# ------------------------------------------------------------------------------------------------ bad input

def changed(pair, **new):
    names = dict(zip(["around", "centre", "W_in", "W_out"], inputs(pair))) | new
    return lambda: PAIRS[pair][0](*names.values())


@every_loss
def test_bad_words_and_tables_are_refused(pair):
    name, owner = "candidates" if pair == "negative_sampling" else "context", f"{pair}_forward"
    around, centre, W_in, W_out = inputs(pair)
    for wrong, place in ((around - 1, -1), (around + 1, 11)):
        refuses(IndexError, f"{owner}: {name} must lie in 0..10, got {place} at index", changed(pair, around=wrong))
    refuses(IndexError, f"{owner}: centre must lie in 0..10, got -1 at index", changed(pair, centre=centre - 1))
    for bad in (around / 1, around > 3):
        refuses(TypeError, f"{owner}: {name} must be an array of integers, got {bad.dtype}", changed(pair, around=bad))
    refuses(TypeError, f"{owner}: centre must be an array of integers, got list",
            changed(pair, centre=centre.tolist()))
    refuses(ValueError, f"{owner}: {name} must have a row of words for each of the 5 words of centre, got shape (3, ",
            changed(pair, around=around[:3]))
    refuses(ValueError, f"{owner}: {name} must have a row of words for each of the 5 words of centre, got shape (5,)",
            changed(pair, around=around[:, 0]))
    refuses(ValueError, f"{owner}: centre must have shape (N), got (5, 1)", changed(pair, centre=centre[:, None]))
    for empty in ({"around": around[:, :0]}, {"around": around[:0], "centre": centre[:0]}):
        refuses(ValueError, f"{owner}: a mean over nothing has no value: {name} must have", changed(pair, **empty))
    for wrong in (W_out.T, W_out[:, :1], W_out[:10]):
        refuses(ValueError, f"{owner}: W_out must have the shape (11, 2) of W_in, got {wrong.shape}",
                changed(pair, W_out=wrong))
    refuses(ValueError, f"{owner}: W_in must have shape (V, D), got (2,)", changed(pair, W_in=W_in[0]))
    refuses(TypeError, f"{owner}: W_in must be an array of floats, got int64",
            changed(pair, W_in=np.ones((11, 2), dtype=int)))


def test_bad_words_of_an_embedding_are_refused():
    W = normal(5, 3)
    refuses(IndexError, "embedding_forward: words must lie in 0..4, got -1 at index (1, 0)",
            lambda: embedding.embedding_forward(np.array([[0, 4], [-1, 2]]), W))
    refuses(IndexError, "embedding_forward: words must lie in 0..4, got 5 at index 2",
            lambda: embedding.embedding_forward(np.array([0, 4, 5]), W))
    refuses(TypeError, "embedding_forward: words must be an array of integers, got float64",
            lambda: embedding.embedding_forward(np.array([0.0, 1]), W))
    refuses(TypeError, "embedding_forward: W must be an array of floats, got int64",
            lambda: embedding.embedding_forward(np.array([0, 1]), np.eye(3, dtype=int)))
    refuses(IndexError, "embedding_forward: words must lie in 0..4, got 5 at index ()",
            lambda: embedding.embedding_forward(np.array(5), W))
    for table in (W[0], W[None]):
        refuses(ValueError, f"embedding_forward: W must have shape (V, D), got {table.shape}",
                lambda table=table: embedding.embedding_forward(np.array([0]), table))


# ------------------------------------------------------------------------------------------------ the object

@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(4,), (3, 5), (2, 3, 4), (0, 5)])
def test_the_layer(shape, dtype):
    layer = nn.Embedding(7, 3, rng=np.random.default_rng(0), dtype=dtype)
    assert list(layer.params) == ["weight"] and layer.params["weight"].shape == (7, 3)
    words = np.random.default_rng(1).integers(0, 7, shape)
    y = layer.forward(words)
    assert y.shape == (*shape, 3) and y.dtype == dtype and np.array_equal(y, layer.params["weight"][words])
    dy = normal(*y.shape).astype(dtype)
    assert layer.backward(dy) is None
    expected = np.zeros((7, 3), dtype)
    for place in np.ndindex(shape):
        expected[words[place]] += dy[place]
    assert layer.grads["weight"].dtype == dtype and np.allclose(layer.grads["weight"], expected)


def test_the_weight_starts_standard_normal():
    weight = nn.Embedding(400, 50, rng=np.random.default_rng(0)).params["weight"]
    assert abs(weight.mean()) < 0.02 and abs((weight**2).mean() - 1) < 0.03


def test_a_refused_word_changes_nothing():
    layer = nn.Embedding(5, 2, rng=np.random.default_rng(0))
    layer.backward(np.ones_like(layer.forward(np.array([1, 2]))))
    memory, grads = layer.memory, layer.grads
    for error, message, x in (
            (IndexError, "Embedding: x must lie in 0..4, got -1 at index 0", np.array([-1])),
            (IndexError, "Embedding: x must lie in 0..4, got 5 at index (0, 1)", np.array([[4, 5]])),
            (TypeError, "Embedding: x must be an array of integers, got float64", np.array([1.0])),
            (TypeError, "Embedding: x must be an array of integers, got bool", np.array([True])),
            (TypeError, "Embedding: x must be an array of integers, got list", [1]),
            (ValueError, "Embedding: x must have at least one axis, the examples, got shape ()", np.array(1))):
        refuses(error, message, lambda x=x: layer.forward(x))
    refuses(ValueError, "Embedding: dy must have the shape (2, 2) of the output, got (2, 3)",
            lambda: layer.backward(np.ones((2, 3))))
    assert layer.memory is memory and layer.grads is grads
    refuses(ValueError, "Embedding: num_embeddings must be a whole number of at least 1, got 0",
            lambda: nn.Embedding(0, 2, rng=np.random.default_rng(0)))
    refuses(TypeError, "Embedding: rng must be a numpy.random.Generator", lambda: nn.Embedding(3, 2, rng=0))
    layer.params["weight"] = np.zeros((6, 2))
    refuses(ValueError, "Embedding: params['weight'] must have shape (5, 2), got (6, 2)",
            lambda: layer.forward(np.array([1])))


def test_a_step_moves_the_rows_of_the_words_that_were_read():
    model = nn.Sequential(nn.Embedding(7, 3, rng=np.random.default_rng(0)), nn.Flatten(),
                          nn.Linear(6, 7, rng=np.random.default_rng(1)))
    loss, before = nn.CrossEntropyLoss(), model.params["0.weight"].copy()
    loss.forward(model.forward(np.array([[1, 4], [4, 4]])), np.array([2, 0]))
    assert model.backward(loss.backward()) is None
    optim.SGD(model, 0.1).step()
    moved = (model.params["0.weight"] != before).any(axis=1)
    assert moved.tolist() == [False, True, False, False, True, False, False]


def test_a_state_from_pytorch_fits():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Embedding(7, 3, dtype=torch.float64)
    ours = nn.Embedding(7, 3, rng=np.random.default_rng(0))
    ours.load_state_dict({name: p.numpy() for name, p in theirs.state_dict().items()})
    words, dy = np.random.default_rng(1).integers(0, 7, (4, 5)), normal(4, 5, 3)
    y = theirs(torch.from_numpy(words))
    y.backward(torch.from_numpy(dy))
    assert np.array_equal(ours.forward(words), y.detach().numpy())
    ours.backward(dy)
    assert relative_error(ours.grads["weight"], theirs.weight.grad.numpy()) <= LIMIT
