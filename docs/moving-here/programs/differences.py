import torch

import torchopt

torch.set_default_dtype(torch.float64)
grads = torch.tensor([[1.0, 2.0, 0.0], [3.0, -1.0, 0.0]])


def sum_of_params(optimizer, weight):
    """Take two steps; a meta-parameter weighs the second gradient."""
    params = [torch.zeros(3)]
    state = optimizer.init(params)
    for grad in (grads[0], weight * grads[1]):
        updates, state = optimizer.update([grad], state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    return params[0].sum()


for name, optimizer in {
    'clip': torchopt.chain(torchopt.clip_grad_norm(1.0), torchopt.sgd(lr=1.0)),
    'adam': torchopt.adam(lr=1.0),
}.items():
    weight = torch.tensor(2.0, requires_grad=True)
    (found,) = torch.autograd.grad(sum_of_params(optimizer, weight), weight)
    with torch.no_grad():
        above, below = (sum_of_params(optimizer, weight + step) for step in (1e-6, -1e-6))
    print(f'{name}: {found:.6f}, by finite differences {(above - below) / 2e-6:.6f}')
