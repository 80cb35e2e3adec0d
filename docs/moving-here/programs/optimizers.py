import torch

import torchopt

torch.set_default_dtype(torch.float64)
scales = torch.tensor([1.0, 4.0, 0.2])
decay = {'weight_decay': 0.1}
optimizers = {
    'adadelta': torchopt.adadelta(lr=1.0, rho=0.9, eps=1e-6, **decay),
    'adagrad': torchopt.adagrad(lr=0.1, lr_decay=0.1, eps=1e-10, **decay),
    'adam': torchopt.adam(lr=0.1, eps=1e-8, **decay),
    'adamax': torchopt.adamax(lr=0.1, eps=1e-8, **decay),
    'adamw': torchopt.adamw(lr=0.1, eps=1e-8, **decay),
    'radam': torchopt.radam(lr=0.1, eps=1e-8, **decay),
    'rmsprop': torchopt.rmsprop(lr=0.1, alpha=0.9, eps=1e-8, momentum=0.5, **decay),
    'centered': torchopt.rmsprop(lr=0.1, alpha=0.9, eps=1e-8, centered=True),
    'sgd': torchopt.sgd(lr=0.1, momentum=0.9, dampening=0.1, **decay),
    'nesterov': torchopt.sgd(lr=0.1, momentum=0.9, nesterov=True),
}

for name, optimizer in optimizers.items():
    start = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    params = [start]
    state = optimizer.init(params)
    for _ in range(20):
        loss = (scales * params[0].square() + params[0].sin()).sum()
        grads = torch.autograd.grad(loss, params, create_graph=True)
        updates, state = optimizer.update(list(grads), state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    (meta_gradient,) = torch.autograd.grad(params[0].square().sum(), start)
    print(f'{name:9}', *(f'{number:12.8f}' for number in meta_gradient))
