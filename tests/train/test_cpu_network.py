"""A network on a CPU in bfloat16: the same numbers, gradients and weights, faster."""

import pytest

torch = pytest.importorskip("torch")

from torch.nn.functional import cosine_similarity, cross_entropy  # noqa: E402

from flare_export.source.architecture import build_network  # noqa: E402
from flare_train.planning.plan import architecture  # noqa: E402
from flare_train.training.cpu_network import compute_in_bfloat16  # noqa: E402


def networks():
    """The same network twice, with deep supervision, the second made fast."""
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        network = build_network(architecture((4, 8, 8)), 1, 2)
        network.decoder.deep_supervision = True
        made.append(network)
    compute_in_bfloat16(made[1])
    return made


def test_it_takes_and_gives_float32_at_every_scale_and_computes_in_bfloat16():
    plain, fast = networks()
    image = torch.randn(2, 1, 16, 16, 24)
    expected, output = plain(image), fast(image)
    assert [scale.dtype for scale in output] == [torch.float32] * len(expected)
    assert [scale.shape for scale in output] == [scale.shape for scale in expected]
    for ours, theirs in zip(output, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.1, atol=0.1)
        assert not torch.equal(ours, theirs), "the network still computes in float32"


def test_a_sample_comes_out_as_if_it_were_alone():
    _, fast = networks()
    image = torch.randn(2, 1, 16, 16, 16)
    together = fast(image)[0]
    for index in range(2):
        torch.testing.assert_close(fast(image[index : index + 1])[0][0], together[index], rtol=0, atol=1e-5)


def test_gradients_are_those_of_the_plain_network_to_bfloat16():
    plain, fast = networks()
    image, target = torch.randn(2, 1, 16, 16, 16), torch.randint(0, 2, (2, 16, 16, 16))
    for network in (plain, fast):
        cross_entropy(network(image)[0], target).backward()
    pairs = [
        (theirs.grad.flatten(), ours.grad.flatten())
        for (name, theirs), ours in zip(plain.named_parameters(), fast.parameters(), strict=True)
        if theirs.grad is not None and not name.endswith("conv.bias")  # those cancel in the norm: noise in both
    ]
    assert min(cosine_similarity(*pair, dim=0) for pair in pairs) > 0.9
    assert cosine_similarity(*(torch.cat(side) for side in zip(*pairs, strict=True)), dim=0) > 0.99


def test_the_norm_of_one_sample_is_instance_norm_exactly():
    norm = torch.nn.InstanceNorm3d(3, affine=True)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    image = torch.randn(1, 3, 5, 6, 7)
    expected = norm(image)
    network = torch.nn.Sequential(norm)
    compute_in_bfloat16(network)
    torch.testing.assert_close(norm(image), expected, rtol=1e-6, atol=1e-6)


def test_the_weights_keep_names_and_values():
    plain, fast = networks()
    theirs, ours = plain.state_dict(), fast.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
