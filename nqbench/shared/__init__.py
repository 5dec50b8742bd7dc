"""The tier of the cache that machines share: ``objects`` reach a bucket or a mounted folder, ``tier`` keeps entries in
it whole and checked, and goes on without it where it is away, ``lease`` says who is at what."""
