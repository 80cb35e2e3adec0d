import torch

import torchopt

torch.set_default_dtype(torch.float64)
x = torch.tensor([[1.0, 2.0], [-0.5, 1.0], [0.3, -1.0]])
y = torch.tensor([1.0, 0.0, -1.0])


def loss(params, x, y):
    return (x @ params['w'] + params['b'] - y).square().mean()


def outer_loss(rate):
    optimizer = torchopt.chain(torchopt.clip_grad_norm(1.0), torchopt.adam(rate, eps_root=1e-8))
    params = {'w': torch.zeros(2), 'b': torch.zeros(())}
    state = optimizer.init(params)
    for _ in range(5):
        grads = torch.func.grad(loss)(params, x, y)
        updates, state = optimizer.update(grads, state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    return loss(params, x, y)


print(torch.func.grad(outer_loss)(torch.tensor(0.1)))
