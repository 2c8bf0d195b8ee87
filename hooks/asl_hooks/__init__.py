"""Mechanisms of the kernel, without any policy: usable on its own, and all that ``agent_safety_layer`` knows of Linux.

    backend     the seam: ``Call`` and the ``Backend`` protocol           notify      calls stopped by seccomp
    syscalls    the table: names, arguments, groups                       filters     which calls are stopped or refused
    bpf         seccomp programs as values                                landlock    rulesets as values
    launch      a child that is bounded before it runs                    warden      the parent that ends the tree
    processes   what is known of each process of the tree                 memory      reading what pointers point to
    paths       what a path names, held open                              sockaddr    socket addresses
    ptrace      exec stops                                                netns       network namespaces
    probe       what this machine can do, found by doing                  value, errors

``_abi`` holds the kernel's own spelling. Modules are imported one by one; importing the package costs nothing.
"""
