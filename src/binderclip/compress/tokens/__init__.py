"""Token pruning: score tokens, choose a set under a budget, gather, keep the original positions, go on."""
