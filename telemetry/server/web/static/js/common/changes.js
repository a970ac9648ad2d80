/** Edits of a task's record, sent to the server, which takes all of a request's changes or none. */

import { ApiError, post } from "./api.js";

/**
 * @typedef {{section: string, key: string, json: string}} Change  `json`: the new value as JSON text; "null" removes it
 * @param {string} taskId
 * @param {Change[]} changes
 * @throws {Error} whose message says what failed and what became of the edit
 */
export async function sendChanges(taskId, changes) {
  const parts = changes.map(
    ({ section, key, json }) => `{"section":${JSON.stringify(section)},"key":${JSON.stringify(key)},"value":${json}}`,
  );
  try {
    await post(`/tasks/${taskId}/changes`, `{"changes":[${parts.join(",")}]}`);
  } catch (error) {
    const text = why(error);
    throw new Error(/nothing was changed/i.test(text) ? text : `${text} Nothing was changed.`);
  }
}

function why(error) {
  if (!(error instanceof ApiError)) return "The server cannot be reached.";
  if (error.status === 401 || error.status === 403)
    return `This needs a token that may write: ${sentence(error.message)}`;
  return sentence(error.message);
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

/**
 * The JSON of an entry of `parameters` or `properties`.
 * @param {{json: string, type: string, description: string}} entry
 */
export const entryJson = ({ json, type, description }) =>
  `{"value":${json},"type":${JSON.stringify(type)},"description":${JSON.stringify(description)}}`;
