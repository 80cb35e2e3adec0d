import torch
from learn2learn.algorithms import MAML

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
x, held_out_x = torch.randn(2, 10, 1)

maml = MAML(net, lr=0.05)
for task in (torch.sin, torch.cos):
    learner = maml.clone()
    for _ in range(5):
        learner.adapt((learner(x) - task(x)).square().mean())
    (learner(held_out_x) - task(held_out_x)).square().mean().backward()

print(net[0].weight.grad.flatten()[:4])
