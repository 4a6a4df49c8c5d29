/**
 * Typed errors in an HTTP handler: each reason that the call can raise becomes an answer; the compiler knows when one is
 * missing.
 */
import { Effect, Schema } from "effect"
import { HttpServerResponse } from "effect/http"
import { Job, Jobs } from "../src/index.ts"

export class Export extends Job.make("report.export", { payload: { month: Schema.String } }) {}

const answer = (status: number, code: string, message: string) =>
  HttpServerResponse.jsonUnsafe({ code, message }, { status })

/** `POST /exports`: the key of the client makes a repeated request find the first job. */
export const postExport = (month: string, key: string) =>
  Jobs.enqueue(Export, { month }, { idempotencyKey: key }).pipe(
    Effect.map(({ jobId, disposition }) =>
      HttpServerResponse.jsonUnsafe({ jobId }, { status: disposition === "inserted" ? 202 : 200 })
    ),
    Effect.unwrapReason("QueryError"),
    Effect.catchTags({
      // code and message of a reason are safe to show
      InvalidArgument: ({ code, message }) => Effect.succeed(answer(400, code, message)),
      IdempotencyConflict: ({ code, fields }) =>
        Effect.succeed(answer(409, code, `The key was used for another request; different: ${fields.join(", ")}`)),
      DefinitionUnavailable: ({ code, message }) => Effect.succeed(answer(503, code, message)),
      Unavailable: ({ code, message }) => Effect.succeed(answer(503, code, message))
    }),
    // what is left is ours to look into
    Effect.catch((reason) =>
      Effect.as(Effect.logError(reason.code), answer(500, "internal", "Something went wrong on our side"))
    )
  )
