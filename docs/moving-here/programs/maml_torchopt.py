import torch

import torchopt

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
x, held_out_x = torch.randn(2, 10, 1)

inner = torchopt.MetaSGD(net, lr=0.05)
start = torchopt.extract_state_dict(net)
for task in (torch.sin, torch.cos):
    for _ in range(5):
        inner.step((net(x) - task(x)).square().mean())
    (net(held_out_x) - task(held_out_x)).square().mean().backward()
    torchopt.recover_state_dict(net, start)

print(net[0].weight.grad.flatten()[:4])
