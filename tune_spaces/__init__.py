"""Search spaces: what `hbt tune` varies, each a question. The library never imports them."""
