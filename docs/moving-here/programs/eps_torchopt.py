import torch

import torchopt

torch.set_default_dtype(torch.float64)
net = torch.nn.Linear(1, 1, bias=False)
torch.nn.init.constant_(net.weight, 2.0)
target = torch.tensor(1.9, requires_grad=True)

optimizer = torchopt.MetaAdam(net, lr=0.1, eps=1e-2)
optimizer.step((net(torch.ones(1, 1)) - target).square().sum())
print('weight', net.weight.item())
net.weight.sum().backward()

print('derivative', target.grad)
