import higher
import torch

torch.set_default_dtype(torch.float64)
net = torch.nn.Linear(1, 1, bias=False)
torch.nn.init.constant_(net.weight, 2.0)
target = torch.tensor(1.9, requires_grad=True)

optimizer = torch.optim.Adam(net.parameters(), lr=0.1, eps=1e-2)
with higher.innerloop_ctx(net, optimizer) as (fast_net, fast_optimizer):
    fast_optimizer.step((fast_net(torch.ones(1, 1)) - target).square().sum())
    print('weight', fast_net.weight.item())
    fast_net.weight.sum().backward()

print('derivative', target.grad)
