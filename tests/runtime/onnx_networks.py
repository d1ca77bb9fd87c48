"""Small networks in ONNX, made by hand: what nnU-Net's may hold, and what they never do."""

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper


class Network:
    """Layers one after the other; every method returns the name of its result."""

    def __init__(self, *tile, seed=1):
        self._tile, self._nodes, self._weights = tile, [], []
        self._rng = np.random.default_rng(seed)

    def weights(self, array):
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def layer(self, kind, *inputs, **attributes):
        result = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [result], **attributes))
        return result

    def conv(self, source, channels, outputs, kernel=(3, 3, 3), stride=(1, 1, 1), *, bias=False, pads=None):
        pads = pads or [side // 2 for side in kernel] * 2
        return self._convolution("Conv", source, (outputs, channels, *kernel), outputs, stride, bias, pads)

    def up(self, source, channels, outputs, stride, *, bias=True, kernel=None):
        shape = (channels, outputs, *(kernel or stride))
        return self._convolution("ConvTranspose", source, shape, outputs, stride, bias, [0] * 6)

    def _convolution(self, kind, source, shape, outputs, stride, bias, pads):
        values = self._rng.standard_normal(shape) / np.sqrt(np.prod(shape) / outputs)
        inputs = [source, self.weights(values)]
        if bias:
            inputs.append(self.weights(self._rng.standard_normal(outputs)))
        return self.layer(kind, *inputs, kernel_shape=list(shape[2:]), strides=list(stride), pads=pads)

    def norm(self, source, channels):
        gamma, beta = self._rng.uniform(0.5, 1.5, channels), self._rng.uniform(-0.5, 0.5, channels)
        return self.layer("InstanceNormalization", source, self.weights(gamma), self.weights(beta), epsilon=1e-5)

    def leaky(self, source):
        return self.layer("LeakyRelu", source, alpha=0.01)

    def block(self, source, channels, outputs, **options):
        return self.leaky(self.norm(self.conv(source, channels, outputs, **options), outputs))

    def joined(self, *sources):
        return self.layer("Concat", *sources, axis=1)

    def head(self, source, channels, outputs, *, bias=True):
        return self.model(self.conv(source, channels, outputs, (1, 1, 1), bias=bias), outputs)

    def model(self, result, outputs):
        """Return the network that ends with the last layer, as bytes."""
        assert self._nodes[-1].output[0] == result
        self._nodes[-1].output[0] = "logits"
        tile = helper.make_tensor_value_info("tiles", TensorProto.FLOAT, self._tile)
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, outputs, None, None, None])
        graph = helper.make_graph(self._nodes, "network", [tile], [logits], self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        checker.check_model(model)
        return model.SerializeToString()


def biased():
    """Biases before norms, without a norm and before a ReLU; convolution to convolution; an anisotropic stride."""
    net = Network(1, 3, 5, 9, 7)
    x = net.block("tiles", 3, 16, bias=True)
    x = net.leaky(net.conv(x, 16, 8, bias=True))
    x = net.layer("Relu", net.conv(x, 8, 24, bias=True, stride=(1, 2, 2)))
    x = net.conv(net.conv(x, 24, 32), 32, 40, kernel=(1, 1, 1))
    x = net.norm(net.conv(net.conv(x, 40, 40, bias=True), 40, 16), 16)
    return net.head(x, 16, 4)


def odd():
    """Odd sizes, uneven padding, a head without a bias, nine channels."""
    net = Network(1, 9, 7, 11, 13)
    x = net.block(net.block("tiles", 9, 24), 24, 16, stride=(2, 2, 2))
    x = net.block(x, 16, 16, pads=[1, 0, 1, 0, 1, 2])
    x = net.block(x, 16, 8, stride=(2, 1, 2), kernel=(3, 1, 3))
    return net.head(x, 8, 3, bias=False)


def plain_unet():
    """Anisotropic ways down and up, skips, a transposed convolution without a concatenation."""
    net = Network(1, 1, 4, 8, 12)
    a = net.block("tiles", 1, 8, kernel=(1, 3, 3))
    b = net.block(a, 8, 16, stride=(1, 2, 2))
    x = net.up(net.block(b, 16, 32, stride=(2, 2, 2)), 32, 24, (2, 2, 2))
    x = net.block(net.joined(x, b), 40, 16)
    x = net.block(net.up(x, 16, 16, (1, 2, 2), bias=False), 16, 8)
    return net.head(net.block(net.joined(a, x), 16, 8), 8, 2)


def residual_unet():
    """Sums in either order, with and without an activation; pooling; a skip that is a sum."""
    net = Network(1, 1, 6, 8, 8)
    s = net.block("tiles", 1, 16)
    x = net.norm(net.conv(net.block(s, 16, 16), 16, 16), 16)
    a = net.leaky(net.layer("Add", s, x))
    pooled = net.layer("AveragePool", a, kernel_shape=[1, 2, 2], strides=[1, 2, 2])
    p = net.norm(net.conv(pooled, 16, 32, kernel=(1, 1, 1)), 32)
    x = net.norm(net.conv(net.block(a, 16, 32, stride=(1, 2, 2)), 32, 32), 32)
    b = net.layer("Add", x, p)
    c = net.layer("Relu", net.layer("Add", net.norm(net.conv(b, 32, 32), 32), b))
    x = net.joined(net.up(c, 32, 16, (1, 2, 2)), a)
    return net.head(net.block(x, 32, 16), 16, 2)


SUPPORTED = {make.__name__: make for make in (biased, odd, plain_unet, residual_unet)}


def unsupported():
    """Return networks that the cudnn backend has to refuse, by what is odd about them."""

    def start(outputs=8):
        net = Network(1, 1, 4, 4, 4)
        return net, net.block("tiles", 1, outputs)

    found = {}
    net, x = start(12)
    found["channels"] = net.head(x, 12, 2)
    net, x = start()
    found["no head"] = net.model(x, 8)
    net, x = start()
    found["a large head"] = net.model(net.conv(x, 8, 2), 2)
    net, x = start()
    found["sigmoid"] = net.model(net.layer("Sigmoid", net.conv(x, 8, 2, (1, 1, 1))), 2)
    net, x = start()
    found["a constant"] = net.head(net.layer("Add", x, net.weights(np.ones((1, 8, 1, 1, 1)))), 8, 2)
    net, x = start()
    found["a transposed kernel"] = net.head(net.up(x, 8, 8, (2, 2, 2), kernel=(3, 3, 3)), 8, 2)
    net = Network(1, 8, 4, 4, 4)
    found["the tile in a concatenation"] = net.head(net.joined(net.block("tiles", 8, 8), "tiles"), 16, 2)
    net, x = start()
    y = net.block(x, 8, 8)
    found["a nested concatenation"] = net.head(net.joined(net.joined(x, y), x), 24, 2)
    net, x = start()
    found["a sum at the end"] = net.model(net.layer("Add", net.conv(x, 8, 8, (1, 1, 1)), x), 8)
    net, x = start()
    grouped = net.layer("Conv", x, net.weights(np.ones((8, 1, 1, 1, 1))), group=8, kernel_shape=[1, 1, 1])
    found["groups"] = net.head(grouped, 8, 2)
    return found
