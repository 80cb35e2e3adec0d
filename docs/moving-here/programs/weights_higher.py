import higher
import torch

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
x, y = torch.randn(6, 3), torch.randn(6, 1)
held_out_x, held_out_y = torch.randn(4, 3), torch.randn(4, 1)
weights = torch.ones(6, 1, requires_grad=True)

optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
with higher.innerloop_ctx(net, optimizer) as (fast_net, fast_optimizer):
    for _ in range(5):
        fast_optimizer.step((weights * (fast_net(x) - y).square()).mean())
    (fast_net(held_out_x) - held_out_y).square().mean().backward()

print(weights.grad.flatten())
