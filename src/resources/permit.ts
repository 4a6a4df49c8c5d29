/**
 * What holds a permit of an execution resource.
 */

/**
 * The condition that permit `alias` is held: by a lease that is not over, or by one that was canceled while its handler may
 * still be at work. Reads `input (at)`. Jobs are found by primary key; only a leased job has a `leased_seq`.
 */
export const held = (alias: string): string => `EXISTS (
                  SELECT FROM runledger.job_queue j
                  WHERE j.id = ${alias}.job_id AND j.run_number = ${alias}.run_number AND j.attempt = ${alias}.attempt
                    AND (
                      j.leased_seq = ${alias}.leased_seq
                      OR (j.status || '' = 'CANCELED' AND j.lease_expires_at > (SELECT at FROM input))
                    )
                )`

/** The advisory lock under which the permits of a key are created or changed in number. */
export const lockOf = (key: string): string => `hashtextextended(${key}, 7234316637203526245)`
