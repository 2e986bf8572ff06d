// Outlier channel splitting (Zhao et al., arXiv 1901.09504): a channel of what a product reads
// stands several times, and its weights are shared out among the copies: y = sum over i of
// x_k (W_k / m). Copies are made for nothing else by the product before it, whose output channels
// are repeated; behind them factors (channel_factors.h) then need to move less range into weights.
#pragma once
#include <vector>

#include "quantize/algorithms/channel_factors.h"

namespace octavo {

// How often each channel stands, `extra` more of them in all: the largest load[k] / copies[k] is
// the least that can be had.
std::vector<size_t> copies_for(const std::vector<double>& load, size_t extra);

// Rows of `channels` values, each value as often as its channel stands.
std::vector<float> repeated(const std::vector<float>& rows, const std::vector<size_t>& copies);

// Repeats the channels of site.x, which lies behind a gelu and has a source that nothing else
// reads, and shares the products' weights out. The graph's types are inferred anew.
void repeat_channels(Graph& graph, const ChannelSite& site, const std::vector<size_t>& copies);

}  // namespace octavo
