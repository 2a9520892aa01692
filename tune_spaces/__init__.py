"""Search spaces for `hbt tune`. Each one answers a question; the library never imports them."""
