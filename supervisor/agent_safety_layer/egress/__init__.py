"""The tree's only way to the network: what it dials is judged, resolved once, checked, and dialled for it on the host.

Start reading at ``client`` (what the supervisor uses) and ``process`` (what it starts).

    client     the egress process as the supervisor sees it
    protocol   their messages
    process    the process: listeners, messages, and the parts below joined
    maker      sockets inside the tree's and the capture namespace (the topology is drawn in asl_hooks.netns)
    gate       what was dialled → judged, resolved, checked → what may be dialled
    names      address book: a name for every address that the tree gets to see
    addresses  kinds of addresses: public, private, metadata, ...
    resolver   look-ups on the host
    dns        the wire format           responder  the server that the tree sees
    sniff      TLS server name, Host     tcp, udp, relay, datagrams, loop  moving bytes
    privileges what the processes give up
"""
