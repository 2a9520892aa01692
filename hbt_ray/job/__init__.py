"""Jobs for a cluster: what one takes along, and the server that takes it."""
