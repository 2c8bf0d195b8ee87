"""Approvals by a person: one kind of request and one kind of queue, for stopped calls and for guarded functions.

    question      what is asked, in words: who, what, why, what else, what would follow
    overlay       what was allowed for always: a policy file of the user's own
    desk          the run's side: which question is open, what was answered before (a ``Gate``)
    clerk         the thread between a desk and a queue: the loop never waits for either
    exchange      what the clerk needs of a queue; any ``ApprovalQueue`` can be made one
    stored        what queues in a database have in common
    sqlite        the queue in the user's state folder
    postgresql    the queue that several machines share
    bells         how processes of one user wake each other
    terminal      the run's own terminal as the one who answers
    prompt        one question on a terminal, answered with one key
    serve         a web page on loopback that answers; ``page`` holds what it shows
    webhooks      signed messages out, signed answers in

Nothing of this is imported by a run that asks nobody. ``agent_safety_layer.approval`` holds the request and the queues
of the library.
"""
