from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import open_clip.loss
import pytest
import torch
from torch.nn import functional as F

from binderclip import errors
from binderclip.losses import info_nce, sigmoid_loss

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
CHUNKS = [1, 5, 16, 23, 1000]


def dense_info_nce(image, text, scale, smoothing=0.0):
    logits = scale * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    rows = torch.arange(len(image))
    both = (F.cross_entropy(x, rows, label_smoothing=smoothing) for x in (logits, logits.T))
    return sum(both) / 2


def dense_sigmoid(image, text, scale, bias):
    logits = scale * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T + bias
    signs = 2 * torch.eye(len(image), dtype=image.dtype) - 1
    return -F.logsigmoid(signs * logits).sum() / len(image)


def assert_same(ours, reference, inputs, tolerance):
    assert float(ours.detach()) == pytest.approx(float(reference.detach()), abs=tolerance)
    got, expected = (torch.autograd.grad(value, inputs) for value in (ours, reference))
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("size", [1.0, 14.0, 100.0])
def test_info_nce_equals_cross_entropy_on_the_whole_matrix(features, dtype, chunk, smoothing, size):
    image, text = features(dtype=dtype)
    scale = torch.tensor(size, dtype=dtype, requires_grad=True)
    ours = info_nce(image, text, scale, smoothing=smoothing, chunk=chunk)
    reference = dense_info_nce(image, text, scale, smoothing)
    assert_same(ours, reference, [image, text, scale], TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("chunk", CHUNKS)
def test_sigmoid_equals_log_sigmoid_on_the_whole_matrix(features, dtype, chunk):
    image, text = features(dtype=dtype)
    scale = torch.tensor(12.0, dtype=dtype, requires_grad=True)
    bias = torch.tensor(-7.0, dtype=dtype, requires_grad=True)
    ours = sigmoid_loss(image, text, scale, bias, chunk=chunk)
    assert_same(ours, dense_sigmoid(image, text, scale, bias), [image, text, scale, bias], TOLERANCE[dtype])


def test_sigmoid_without_normalising_takes_the_features_as_they_are(features):
    image, text = features(dtype=torch.float64)
    theirs = open_clip.loss.SigLipLoss()(image, text, torch.tensor(0.5), torch.tensor(-1.0))
    ours = sigmoid_loss(image, text, 0.5, -1.0, normalize=False)
    assert float(ours) == pytest.approx(float(theirs), abs=1e-9)
    assert abs(float(ours) - float(sigmoid_loss(image, text, 0.5, -1.0))) > 1e-3


@pytest.mark.parametrize("chunk", [7, 1000])
def test_values_equal_open_clips(features, chunk):
    image, text = (F.normalize(x, dim=1) for x in features(dtype=torch.float64))
    theirs = open_clip.loss.ClipLoss()(image, text, torch.tensor(30.0))
    assert float(info_nce(image, text, 30.0, chunk=chunk)) == pytest.approx(float(theirs), abs=1e-10)
    theirs = open_clip.loss.SigLipLoss()(image, text, torch.tensor(10.0), torch.tensor(-10.0))
    assert float(sigmoid_loss(image, text, 10.0, -10.0, chunk=chunk)) == pytest.approx(float(theirs), abs=1e-10)


def test_logits_far_below_and_above_zero_neither_underflow_nor_overflow(features):
    # raw inner products of several thousand: exp of any of them, or of any difference from the largest, is 0 or inf
    image, text = features(dtype=torch.float64)
    image, text = (40 * image).detach().requires_grad_(), (40 * text).detach().requires_grad_()
    ours = info_nce(image, text, 1.0, normalize=False, chunk=4)
    logits = image @ text.T
    reference = (F.cross_entropy(logits, torch.arange(23)) + F.cross_entropy(logits.T, torch.arange(23))) / 2
    assert logits.abs().max() > 5000
    assert_same(ours, reference, [image, text], 1e-9)


@pytest.mark.parametrize("chunk", [3, 100])
def test_identical_embeddings_give_log_batch_and_perfect_separation_gives_zero(chunk):
    same = torch.ones(12, 5)
    assert float(info_nce(same, same, 50.0, chunk=chunk)) == pytest.approx(math.log(12), abs=1e-6)
    assert float(info_nce(torch.eye(12), torch.eye(12), 1e4, chunk=chunk)) == 0.0


@pytest.mark.parametrize("chunk", [4, 100])
def test_order_of_the_batch_does_not_matter(features, chunk):
    image, text = features()
    order = torch.randperm(23, generator=torch.Generator().manual_seed(3))
    first, second = (info_nce(x, y, 9.0, chunk=chunk) for x, y in ((image, text), (image[order], text[order])))
    assert float(first) == pytest.approx(float(second), abs=1e-12)


@pytest.mark.parametrize("chunk", [4, 100])
@pytest.mark.parametrize("link", [info_nce, sigmoid_loss])
def test_scale_gradient_by_finite_differences(features, chunk, link):
    image, text = (x.detach() for x in features())
    scale = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(link(image, text, scale, chunk=chunk), [scale])
    step = 1e-5
    above, below = (float(link(image, text, 8.0 + sign * step, chunk=chunk)) for sign in (1, -1))
    assert float(grad) == pytest.approx((above - below) / (2 * step), rel=1e-7)


@pytest.mark.parametrize("link", [info_nce, sigmoid_loss])
def test_gradcheck_of_the_blockwise_way(features, link):
    image, text = features(rows=5, width=3)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, y, s: link(x, y, s, chunk=2), (image, text, scale))


def test_frozen_side_gets_no_gradient_and_the_other_the_right_one(features):
    image, text = features()
    info_nce(image, text.detach(), 5.0, chunk=6).backward()
    (expected,) = torch.autograd.grad(dense_info_nce(image, text, 5.0), [image])
    torch.testing.assert_close(image.grad, expected, rtol=0, atol=1e-12)
    assert text.grad is None


@pytest.mark.parametrize("link", [info_nce, sigmoid_loss])
def test_a_retained_graph_gives_the_same_gradient_twice(features, link):
    image, text = features()
    value = link(image, text, chunk=6)
    first, second = (torch.autograd.grad(value, [image, text], retain_graph=True) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_the_dense_way_can_be_differentiated_twice(features):
    image, text = features(rows=6)
    (grad,) = torch.autograd.grad(info_nce(image, text, 5.0), [image], create_graph=True)
    grad.square().sum().backward()
    assert image.grad.isfinite().all()
    assert image.grad.abs().sum() > 0


def test_half_precision_features_are_compared_in_float32(features):
    image, text = (x.detach().bfloat16() for x in features(dtype=torch.float32))
    expected = dense_info_nce(image.float(), text.float(), 20.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for chunk in (6, 100):
            assert float(info_nce(image, text, 20.0, chunk=chunk)) == pytest.approx(float(expected), abs=1e-5)


MEMORY = """
import sys, torch
from torch.nn import functional as F
from binderclip.losses import info_nce, sigmoid_loss

def dense(image, text, chunk):
    logits = image @ text.T
    return F.cross_entropy(logits, torch.arange(len(image)))

def peak():
    # not getrusage: its maximum starts from that of the process that started this one
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

rows, loss = int(sys.argv[1]), {"info_nce": info_nce, "sigmoid": sigmoid_loss, "dense": dense}[sys.argv[2]]
image, text = (torch.randn(rows, 8, requires_grad=True) for _ in range(2))
loss(image[:64], text[:64], chunk=32).backward()
before = peak()
loss(image, text, chunk=256).backward()
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("link", ["info_nce", "sigmoid", "dense"])
def test_memory_stays_far_below_the_logit_matrix(link):
    rows = 4096
    run = subprocess.run([sys.executable, "-c", MEMORY, str(rows), link], capture_output=True, text=True, check=True)
    matrix = rows * rows * 4 / 2**20
    if link == "dense":
        assert float(run.stdout) > matrix  # the measurement sees what it should
    else:
        assert float(run.stdout) < matrix / 4


@pytest.mark.parametrize(
    ("image", "text", "message"),
    [
        (torch.zeros(3, 4), torch.zeros(4, 4), r"\(3, 4\) and \(4, 4\)"),
        (torch.zeros(3, 4), torch.zeros(3, 5), r"\(3, 4\) and \(3, 5\)"),
        (torch.zeros(0, 4), torch.zeros(0, 4), "empty"),
        (torch.zeros(3), torch.zeros(3), r"shape \(B, d\)"),
        (torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 4), "int64"),
        (torch.ones(1, 4), torch.ones(1, 4), "at least 2"),
        ([1.0], torch.ones(1, 4), "list"),
    ],
)
def test_what_cannot_be_compared_is_refused(image, text, message):
    with pytest.raises(errors.UsageError, match=message):
        info_nce(image, text)


@pytest.mark.parametrize("chunk", [2, 100])
@pytest.mark.parametrize("link", [info_nce, sigmoid_loss])
def test_nan_is_named_with_its_side_and_row(features, chunk, link):
    image, text = (x.detach() for x in features())
    text[4, 2] = torch.nan
    with pytest.raises(errors.UsageError, match=r"text features are NaN .* in 1 of 23 rows \(row 4\)"):
        link(image, text, chunk=chunk)


def test_settings_that_make_no_sense_are_refused(features):
    image, text = features()
    with pytest.raises(errors.UsageError, match="chunk"):
        info_nce(image, text, chunk=0)
    with pytest.raises(errors.UsageError, match="smoothing"):
        info_nce(image, text, smoothing=1.0)
