"""Every code sample of the document that this project was created from, completed and run.

Code that a sample leaves as ``...``, or to the reader, is marked "filled in". Names and order are
the samples' own.
"""

import torch
from torch import nn
from torch.nn import functional

import torchopt


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1, dtype=torch.float64)

    def forward(self, x):
        return self.layer(x)


def make_batch():
    torch.manual_seed(0)
    x = torch.randn(8, 2, dtype=torch.float64)
    return x, x.sum(dim=1, keepdim=True)


def test_differentiable_functional_optimizers():
    x, y = make_batch()  # filled in
    model = Regression()  # filled in
    iter_times = 3  # filled in

    def make_functional(model):  # filled in: torch.func has taken its place
        def fmodel(params, x):
            return torch.func.functional_call(model, params, (x,))

        return fmodel, {name: p.detach().requires_grad_() for name, p in model.named_parameters()}

    def inner_loss(fmodel, params, meta_params):  # filled in
        return (meta_params * (fmodel(params, x) - y).square()).mean()

    def outer_loss(fmodel, params, meta_params):  # filled in
        return (fmodel(params, x) - y).square().mean() + 0 * meta_params.sum()

    # ---- the sample; torch.autograd.grad takes the leaves of a dictionary
    opt = torchopt.adam()
    # Define meta and inner parameters
    meta_params = torch.ones(8, 1, dtype=torch.float64, requires_grad=True)
    fmodel, params = make_functional(model)
    # Initialize optimizer state
    state = opt.init(params)

    for _ in range(iter_times):
        loss = inner_loss(fmodel, params, meta_params)
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        grads = dict(zip(params, grads, strict=True))
        # Apply non-inplace parameter update
        updates, state = opt.update(grads, state, inplace=False)
        params = torchopt.apply_updates(params, updates)

    loss = outer_loss(fmodel, params, meta_params)
    meta_grads = torch.autograd.grad(loss, meta_params)
    # ---- end of the sample

    # apply_updates has not cut the graph: the weights reach the loss through the steps alone.
    assert meta_grads[0].abs().min() > 0


def test_low_level_and_high_level_meta_optimizers():
    x, y = make_batch()  # filled in
    trained = []
    for level in ('low', 'high'):
        torch.manual_seed(0)
        net = Regression()  # filled in
        if level == 'low':
            # Low-level API
            optim = torchopt.MetaOptimizer(net, torchopt.sgd(lr=1.0))
        else:
            # High-level API
            optim = torchopt.MetaSGD(net, lr=1.0)
        optim.step(functional.mse_loss(net(x), y))  # filled in
        trained.append(net.layer.weight)
    assert torch.equal(*trained)


def test_differentiable_oop_meta_optimizers():
    x, y = make_batch()  # filled in
    iter_times = 3  # filled in

    def inner_loss(model, meta_params):  # filled in
        return (meta_params * (model(x) - y).square()).mean()

    def outer_loss(model, meta_params):  # filled in
        return (model(x) - y).square().mean()

    # Define meta and inner parameters
    meta_params = torch.ones(8, 1, dtype=torch.float64, requires_grad=True)
    model = Regression()
    # Define differentiable optimizer
    opt = torchopt.MetaAdam(model)

    for _ in range(iter_times):
        # Perform the inner update
        loss = inner_loss(model, meta_params)
        opt.step(loss)  # filled in

    loss = outer_loss(model, meta_params)
    loss.backward()  # filled in
    assert meta_params.grad.abs().min() > 0


def test_accelerated_optimizers():
    # Check whether the `accelerated_op` is available:
    available = torchopt.accelerated_op_available(torch.device('cpu'))

    net = Regression()
    # The sample moves the net to a GPU and asks for the accelerated operator unconditionally.
    optim = torchopt.Adam(net.parameters(), lr=1.0, use_accelerated_op=available)
    x, y = make_batch()
    start = functional.mse_loss(net(x), y)
    start.backward()
    before = net.layer.weight.detach().clone()
    optim.step()
    torch.testing.assert_close((net.layer.weight - before).abs(), torch.ones_like(before))


class Net(nn.Module):
    """The network of the last sample, whose definition the document leaves out."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(1.0), requires_grad=True)
        self.register_buffer('calls', torch.zeros(()))

    def forward(self, x):
        return self.a * x**2


def test_general_utilities():
    net = Net()
    x = nn.Parameter(torch.tensor(2.0), requires_grad=True)

    optim = torchopt.MetaAdam(net, lr=1.0)

    # Get the reference of state dictionary
    init_net_state = torchopt.extract_state_dict(net, by='reference')
    init_optim_state = torchopt.extract_state_dict(optim, by='reference')
    # If set `detach_buffers=True`, the parameters are referenced as references while buffers are
    # detached copies
    init_net_state = torchopt.extract_state_dict(net, by='reference', detach_buffers=True)

    # Set `copy` to get the copy of the state dictionary
    init_net_state_copy = torchopt.extract_state_dict(net, by='copy')
    init_optim_state_copy = torchopt.extract_state_dict(optim, by='copy')

    # Set `deepcopy` to get the detached copy of state dictionary
    init_net_state_deepcopy = torchopt.extract_state_dict(net, by='deepcopy')
    init_optim_state_deepcopy = torchopt.extract_state_dict(optim, by='deepcopy')

    # Conduct 2 inner-loop optimization
    for _ in range(2):
        inner_loss = net(x)
        optim.step(inner_loss)  # filled in

    first = net.a
    print(f'a = {net.a!r}')

    # Recover and reconduct 2 inner-loop optimization
    torchopt.recover_state_dict(net, init_net_state)
    torchopt.recover_state_dict(optim, init_optim_state)

    for _ in range(2):
        inner_loss = net(x)
        optim.step(inner_loss)  # filled in

    print(f'a = {net.a!r}')  # the same result

    assert first is not net.a
    assert torch.equal(first, net.a)
    assert first.item() != 1.0

    for net_state, optim_state in (
        (init_net_state_copy, init_optim_state_copy),
        (init_net_state_deepcopy, init_optim_state_deepcopy),
    ):
        torchopt.recover_state_dict(net, net_state)
        torchopt.recover_state_dict(optim, optim_state)
        for _ in range(2):
            optim.step(net(x))
        assert torch.equal(first, net.a)
