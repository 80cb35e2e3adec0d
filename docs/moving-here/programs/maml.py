import torch

import torchopt

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
x, held_out_x = torch.randn(2, 10, 1)
tasks = [torch.sin, torch.cos]

inner = torchopt.MetaAdam(net, lr=0.05, eps_root=1e-8)
outer = torch.optim.Adam(net.parameters(), lr=0.01)

for _ in range(3):
    net_state = torchopt.extract_state_dict(net, by='reference')
    inner_state = torchopt.extract_state_dict(inner, by='reference')
    outer.zero_grad()
    for task in tasks:
        for _ in range(5):
            inner.step((net(x) - task(x)).square().mean())
        (net(held_out_x) - task(held_out_x)).square().mean().backward()
        torchopt.recover_state_dict(net, net_state)
        torchopt.recover_state_dict(inner, inner_state)
    outer.step()

print(torch.cat([param.grad.flatten() for param in net.parameters()])[:4])
