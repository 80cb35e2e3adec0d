import torch

import torchopt

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
x, y = torch.randn(6, 3), torch.randn(6, 1)
held_out_x, held_out_y = torch.randn(4, 3), torch.randn(4, 1)
weights = torch.ones(6, 1, requires_grad=True)

start = torchopt.extract_state_dict(net)
optimizer = torchopt.MetaSGD(net, lr=0.05, momentum=0.9)
for _ in range(5):
    optimizer.step((weights * (net(x) - y).square()).mean())
(net(held_out_x) - held_out_y).square().mean().backward()
torchopt.recover_state_dict(net, start)

print(weights.grad.flatten())
