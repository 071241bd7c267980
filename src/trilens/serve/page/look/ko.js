// "안을 들여다보기"에 나오는 한국어 문장.
/** @type {Record<string, string>} */
export const KO = {
  title: "안을 들여다보기", words: "최대 512토큰짜리 글을 모델에 한 번 더 통과시켜, 평소에는 보이지 않는 중간 과정을 보여 줍니다. 버튼을 누르기 전에는 아무것도 계산하지 않습니다.",
  text: "들여다볼 글", look: "들여다보기", take: "지금 대화로 보기", taken: "지금 대화, 메시지 {n}개", write: "직접 입력", engine: "{model} 모델은 외부 엔진에서 실행되어 안을 볼 수 없습니다.",
  tokens: "글의 토큰", choose: "토큰을 하나 고르세요. 아래 두 그림은 고른 토큰을 기준으로 합니다.", cost: "이번 실행: {line}", read: "{bytes} 읽음",
  attention: "헤드 하나의 어텐션", attention_words: "어텐션 헤드는 토큰마다 자기 자신과 앞선 토큰에 비율을 나누어 줍니다. 색이 진한 토큰일수록 고른 토큰에 더 많이 반영됩니다.",
  layer: "층", head: "헤드", no_heads: "{layer}: 어텐션 없음", no_attention: "{model}에는 어텐션이 없습니다. 층마다 상태 하나를 다음 토큰으로 넘깁니다.", share: "{at}. {token}", sink: "어느 토큰도 아님(싱크)",
  others: "나머지 {n}개", map: "{layer}번 층 {head}번 헤드의 어텐션. 행은 토큰, 열은 그 앞의 토큰입니다. {token} 토큰은 {most} 토큰을 가장 많이 봅니다({share}).",
  lens: "로짓 렌즈(logit lens)", lens_words: "모델이 어떤 층에서 멈춘다면 다음에 올 토큰으로 무엇을 꼽을지 보여 줍니다. 예측이 몇 번째 층에서 나타나는지 알 수 있습니다.",
  lens_of: "{token} 다음에는 무엇이 올까요? 글에는 {next} 토큰이 이어집니다.", lens_last: "마지막 토큰 {token} 다음에는 무엇이 올까요?",
};
